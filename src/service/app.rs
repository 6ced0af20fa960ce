//! What may be given to [`Service::http`](super::Service::http): a router, or a function that makes
//! one in every worker.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;

use crate::context::Context;

/// Any error, of any type.
pub type BoxError = Box<dyn Error + Send + Sync>;

pub(super) type Making = Pin<Box<dyn Future<Output = Result<Router, BoxError>> + Send>>;
pub(super) type Maker = Arc<dyn Fn(Context) -> Making + Send + Sync>;

/// An application: a [`Router`], or an async function `app(cx: Context) -> Result<Router, E>`, where
/// `E` is any error that `?` can make a [`BoxError`] of.
///
/// A router is made in `main`, and `main` runs in every process, masters and clients too; so one
/// that opens pools or files is made by a function. It is called once in every worker; a worker is
/// ready when it has returned. An error fails the upgrade, and the running generation serves on.
///
/// `Kind` is the compiler's business: it tells the two apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no application",
    note = "an application is an `axum::Router`, or an `async fn(handover::Context) -> \
            Result<axum::Router, E>` with `E: Into<handover::BoxError>`"
)]
pub trait App<Kind>: Send + Sync + 'static {
    #[doc(hidden)]
    fn make(
        &self,
        context: Context,
    ) -> impl Future<Output = Result<Router, BoxError>> + Send + 'static;
}

#[doc(hidden)]
#[derive(Debug)]
pub struct Made;

impl App<Made> for Router {
    fn make(&self, _: Context) -> impl Future<Output = Result<Router, BoxError>> + Send + 'static {
        std::future::ready(Ok(self.clone()))
    }
}

impl<F, Fut, E> App<(Fut, E)> for F
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Router, E>> + Send + 'static,
    E: Into<BoxError>,
{
    fn make(
        &self,
        context: Context,
    ) -> impl Future<Output = Result<Router, BoxError>> + Send + 'static {
        let making = self(context);
        async move { making.await.map_err(Into::into) }
    }
}

pub(super) type Preparing = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
pub(super) type Prepare = Arc<dyn Fn(Context) -> Preparing + Send + Sync>;

pub(super) fn maker<Kind>(app: impl App<Kind>) -> Maker {
    Arc::new(move |context| Box::pin(app.make(context)))
}
