//! The page of a service that has no site yet: what serves, and what to try next.

use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};

use super::{PLAIN_TEXT, SiteContext};

pub(super) fn router(cx: &SiteContext) -> Router {
    Router::new()
        .route("/", get(welcome))
        .route(
            "/healthz",
            get(async || ([(header::CONTENT_TYPE, PLAIN_TEXT)], "ok\n")),
        )
        .fallback(async || StatusCode::NOT_FOUND)
        .with_state(Pages::new(cx))
}

/// Both forms, made once.
#[derive(Debug, Clone)]
struct Pages {
    html: bytes::Bytes,
    text: bytes::Bytes,
}

impl Pages {
    fn new(cx: &SiteContext) -> Self {
        let SiteContext {
            name,
            version,
            generation,
            ..
        } = cx;
        let named = match name.as_str() {
            "handover" => String::new(),
            name => format!(" --name {name}"),
        };
        let html = include_str!("welcome.html")
            .replace("{{generation}}", &format!("g{generation}"))
            .replace("{{named}}", &escaped(&named))
            .replace("{{version}}", &escaped(version));
        Self {
            html: html.into(),
            text: format!("handover {version} generation g{generation}\n").into(),
        }
    }
}

async fn welcome(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let common = [
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept, user-agent"),
    ];
    if wants_text(&headers) {
        let kind = [(header::CONTENT_TYPE, PLAIN_TEXT)];
        return (common, kind, pages.text).into_response();
    }
    let policy = [(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    )];
    (common, policy, Html(pages.html)).into_response()
}

/// Whoever names HTML gets it; else a terminal's client, or who names plain text, gets a line.
fn wants_text(headers: &HeaderMap) -> bool {
    let value = |name| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let accept = value(header::ACCEPT);
    let agent = value(header::USER_AGENT);
    !accept.contains("text/html")
        && (accept.contains("text/plain") || TERMINALS.iter().any(|t| agent.starts_with(t)))
}

fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

/// User agents that show their answer in a terminal.
const TERMINALS: [&str; 3] = ["curl/", "Wget/", "HTTPie/"];

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::tests::{Answer, ask, context, header};

    async fn get(headers: &[(&str, &str)]) -> Answer {
        let site = super::super::router(&context(None));
        ask(&site, Method::GET, "/", headers).await
    }

    #[tokio::test]
    async fn a_browser_gets_a_page_that_says_what_serves_and_needs_nothing_else() {
        let accept = "text/html,application/xhtml+xml,*/*;q=0.8";
        let answer = get(&[("accept", accept), ("user-agent", "Mozilla/5.0")]).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "content-type"), "text/html; charset=utf-8");
        assert_eq!(header(&answer, "cache-control"), "no-store");
        let page = answer.body();
        for part in [
            "1.2.3",
            ">g7<",
            "handover --name web upgrade",
            "handover --name web rollback",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for foreign in [
            "http://", "https://", "src=", "@import", "url(", "<script", "{{",
        ] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[tokio::test]
    async fn the_service_called_handover_needs_no_name_in_its_commands() {
        let mut cx = context(None);
        cx.name = "handover".into();
        let answer = ask(&super::super::router(&cx), Method::GET, "/", &[]).await;
        assert!(answer.body().contains("handover upgrade"));
        assert!(!answer.body().contains("--name"));
    }

    #[tokio::test]
    async fn a_terminal_gets_one_line() {
        for headers in [
            [("accept", "*/*"), ("user-agent", "curl/8.5.0")],
            [("accept", "text/plain"), ("user-agent", "Mozilla/5.0")],
        ] {
            let answer = get(&headers).await;
            assert_eq!(answer.body(), "handover 1.2.3 generation g7\n");
            assert_eq!(header(&answer, "content-type"), "text/plain; charset=utf-8");
        }
        let html = get(&[("accept", "text/html"), ("user-agent", "curl/8.5.0")]).await;
        assert!(html.body().starts_with("<!doctype html>"));
    }

    #[tokio::test]
    async fn a_version_is_text_never_markup() {
        let mut cx = context(None);
        cx.version = "<b>&\"".into();
        let answer = ask(&super::super::router(&cx), Method::GET, "/", &[]).await;
        assert!(answer.body().contains("&lt;b&gt;&amp;&quot;"));
        assert!(!answer.body().contains("<b>"));
    }

    #[tokio::test]
    async fn health_is_asked_at_healthz_only_where_there_is_no_root() {
        let site = super::super::router(&context(None));
        let answer = ask(&site, Method::GET, "/healthz", &[]).await;
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_str()),
            (200, "ok\n")
        );
        let head = ask(&site, Method::HEAD, "/healthz", &[]).await;
        assert_eq!((head.status().as_u16(), head.body().as_str()), (200, ""));
        let dir = tempfile::tempdir().unwrap();
        let site = super::super::router(&context(Some(dir.path().into())));
        assert_eq!(ask(&site, Method::GET, "/healthz", &[]).await.status(), 404);
    }
}
