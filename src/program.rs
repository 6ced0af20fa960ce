//! The program `handover`: a directory over HTTP, or a program of any language behind our workers.

use std::path::Path;

use crate::config::Hosted;
use crate::context::Context;
use crate::service::{BoxError, Service};
use crate::{host, site};

/// The daemon as a service: a directory over HTTP, or a welcome page when there is none.
pub fn daemon() -> Service {
    Service::new("handover")
        .about("Serves a directory over HTTP and replaces its own running program")
        .worker_per_core()
        .serves_a_site()
        .every_listener("http", "127.0.0.1:8080", |cx: Context| async move {
            let hosted = cx.kept::<Hosted>();
            let beside = hosted.as_ref().map(|hosted| &*hosted.release);
            let site = site_of(&cx, beside)?;
            let (Some(app), Some(hosted), Some(owners)) =
                (cx.settings().app.clone(), hosted, cx.kept())
            else {
                return Ok(site::router(&site));
            };
            let front = host::router(&host::FrontContext {
                app,
                upstreams: hosted.upstreams,
                tally: cx.kept().unwrap_or_default(),
                silent: cx.kept().unwrap_or_default(),
                owners,
            });
            Ok::<_, BoxError>(match &cx.settings().site.at {
                Some(_) => site::beside(front, &site),
                None => front,
            })
        })
}

/// The site; beside an application its relative root is in the `release`.
fn site_of(cx: &Context, release: Option<&Path>) -> Result<site::SiteContext, BoxError> {
    let site = &cx.settings().site;
    let mut root = site.root.clone();
    let mut of_release = None;
    if let (Some(root), Some(release), Some(_)) = (&mut root, release, &site.at) {
        // An absolute one is the same for all releases.
        of_release = root.is_relative().then(|| release.to_owned());
        *root = release.join(&*root);
        // Looked at before the workers are ready: a release without it is refused. With a dot at its end:
        // that takes the permission that serving its files takes.
        std::fs::metadata(root.join("."))
            .map_err(|e| format!("`site.root`: cannot serve {}: {e}", root.display()))?;
    }
    Ok(site::SiteContext {
        root,
        at: site.at.clone().unwrap_or_default(),
        release: of_release,
        name: cx.name().into(),
        version: cx.version().into(),
        generation: cx.generation(),
        server_header: site.server_header,
    })
}
