//! The OpenAPI document, made from the types and handlers themselves.

use super::routes;
use crate::model::{End, Link, Mode, Options, Place, Proto, Spec, Via};
use std::sync::OnceLock;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "wormhole control API",
        description = "On unix:///run/wormhole/wormhole.sock for root and group `wormhole`, and on TCP 9999 under TLS 1.3 \
                       with mutual authentication for who holds key.secret. Every failure is a `Failure` in JSON.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    paths(
        routes::list,
        routes::create,
        routes::delete_all,
        routes::inspect,
        routes::delete,
        routes::status,
        routes::ping,
        routes::pong,
        routes::describe,
    ),
    // A segment holds a segment: the macro does not follow the types around the circle.
    components(schemas(Link, Spec, Via, End, Options, Place, Proto, Mode))
)]
struct Api;

/// The document as it is served at `/v1/openapi.json` and checked in as `openapi.json`.
pub fn document() -> &'static str {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut text = Api::openapi().to_pretty_json().unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"));
        text.push('\n');
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    #[test]
    fn the_checked_in_document_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, super::document()).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == super::document(),
            "wormhole/openapi.json is not what the types say; write it anew with `UPDATE=1 cargo test -p wormhole --lib openapi`"
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_str(super::document()).unwrap();
        let text = super::document();
        for name in text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(document["components"]["schemas"][name].is_object(), "{name} is referred to and not there");
        }
    }
}
