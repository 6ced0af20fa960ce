//! gRPC with tonic: its router serves as it is. Calls are finished where they began, then their
//! connections go on to the next generation. A call that goes on for ever is ended by its handler.

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use greet::greeter_server::{Greeter, GreeterServer};
use greet::{Greeting, Name};
use handover::axum::Router;
use handover::{BoxError, Context, Service};
use tonic::{Request, Response, Status, service::Routes};
// What tonic-prost-build makes of `greet.proto`; in your program: `tonic::include_proto!("greet")`.
#[expect(clippy::allow_attributes_without_reason, reason = "made by a program")]
#[rustfmt::skip]
mod greet;

fn main() -> ExitCode {
    let service = Service::new("grpc").version(env!("CARGO_PKG_VERSION"));
    service.http("http", "127.0.0.1:50051", app).run()
}

async fn app(cx: Context) -> Result<Router, BoxError> {
    Ok(Routes::new(GreeterServer::new(Greets { cx })).into_axum_router())
}

struct Greets {
    cx: Context,
}

#[tonic::async_trait]
impl Greeter for Greets {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Greeting, Status>> + Send>>;

    async fn greet(&self, request: Request<Name>) -> Result<Response<Greeting>, Status> {
        Ok(Response::new(greeting(
            &self.cx,
            &request.into_inner().name,
        )))
    }

    /// Ends at a drain, after a greeting: who wants more calls again.
    async fn watch(&self, request: Request<Name>) -> Result<Response<Self::WatchStream>, Status> {
        let state = (self.cx.clone(), request.into_inner().name);
        let greetings = stream::unfold(state, async |(cx, name)| {
            let next = tokio::time::sleep(Duration::from_millis(10));
            tokio::select! {
                _ = cx.draining() => None,
                () = next => Some((Ok(greeting(&cx, &name)), (cx, name))),
            }
        });
        Ok(Response::new(Box::pin(greetings)))
    }
}

fn greeting(cx: &Context, name: &str) -> Greeting {
    let (text, generation) = (format!("hello {name}"), cx.generation());
    Greeting { text, generation }
}
