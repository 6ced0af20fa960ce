//! An application with its tests: upgrades, rollbacks and drains in the process of `cargo test`.

use std::process::ExitCode;

use handover::axum::{Router, routing::get};
use handover::{BoxError, Context, Service};

fn main() -> ExitCode {
    service().run()
}

fn service() -> Service {
    Service::new("tested")
        .version(env!("CARGO_PKG_VERSION"))
        .http("http", "127.0.0.1:8080", app)
}

async fn app(cx: Context) -> Result<Router, BoxError> {
    let made_in = cx.generation();
    let who = async move |cx: Context| format!("g{made_in}, asked by {:?}\n", cx.peer());
    Ok(Router::new().route("/", get(who)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};

    use handover::testing::Running;

    use super::*;

    /// One request on a connection that stays.
    fn ask(connection: &mut TcpStream) -> String {
        let mut answer = vec![0; 4096];
        connection
            .write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            .unwrap();
        let length = connection.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_connection_lives_through_an_upgrade_and_a_rollback() -> Result<(), BoxError> {
        let mut running = Running::start(service()).await?;
        let address: SocketAddr = running.address("http").expect("it has that listener");
        let mut connection = TcpStream::connect(address)?;
        assert!(ask(&mut connection).contains("g1, asked by Some(Tcp(127.0.0.1:"));
        running.upgrade(service()).await?;
        // The generation before has ended, and its connections have moved.
        running.drained().await;
        assert!(ask(&mut connection).contains("g2, "));
        running.rollback().await?;
        running.drained().await;
        assert!(ask(&mut connection).contains("g1, "));
        drop(connection);
        assert_eq!(running.stop().await.cut, 0);
        Ok(())
    }
}
