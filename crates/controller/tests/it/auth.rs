//! Nothing answers without a token where one is needed, and the description of the API is the whole API.

use serde_json::Value;

use crate::harness::Served;

const TOKEN: &str = "correct-horse-battery-staple";

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_description_asks_for_a_token() {
    let served = Served::start(&[("auth.tokens", &format!("ops={TOKEN}"))]).await;
    let with_token = crate::client::Client { token: Some(TOKEN.to_owned()), ..served.api.clone() };
    let described: Value = serde_json::from_str(&muster_controller::openapi_json()).unwrap();
    let mut routes = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            routes += 1;
            let id = if path.contains("/collections/") { "col_01jd8k2m3n4p5q6r7s" } else { "tsk_01jd8k2m3n4p5q6r7s-17" };
            let path = path.replace("{id}", id).replace("{name}", "x/y");
            let method = method.to_uppercase();
            let answer = served.api.send(&method, &path, &[], b"").await;
            if matches!(path.as_str(), "/healthz" | "/readyz") {
                assert!(matches!(answer.status, 200 | 503), "{path} is open: {}", answer.status);
                continue;
            }
            if method == "GET" && (path == "/indicators" || path.starts_with("/api/v1/indicators")) {
                assert!(matches!(answer.status, 200 | 404), "{path} is published: {}", answer.status);
                continue;
            }
            assert_eq!((answer.status, answer.code().as_str()), (401, "token_missing"), "{method} {path}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"muster\"");
            let answer = with_token.send(&method, &path, &[], b"").await;
            // It exists: what is missing is a thing, not a route.
            let there = answer.status < 300
                || !matches!(answer.code().as_str(), "route_not_found" | "method_not_allowed" | "token_missing" | "token_unknown");
            assert!(there, "{method} {path} is described and not served: {}", answer.text());
        }
    }
    assert!(routes >= 21, "{routes} routes are described");
    for path in ["/", "/nothing", "/api/v1/", "/landing%2f..%2fmetrics"] {
        assert_eq!(served.api.get(path).await.status, 401, "{path}: what is not there does not say so to strangers");
    }
    let wrong = crate::client::Client { token: Some(format!("{TOKEN}x")), ..served.api.clone() };
    let answer = wrong.get("/api/v1/status").await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "token_unknown"));
    insta::assert_json_snapshot!("missing_token", served.api.get("/api/v1/status").await.problem());
    // The grant is the credential there: a stranger is refused by the endpoint itself, in its own words.
    let landing = served.api.send("PUT", "/landing/inbox-x/y", &[("x-ms-blob-type", "BlockBlob")], b"abc").await;
    assert!(
        matches!(landing.status, 400..=404) && landing.headers.contains_key("x-ms-request-id"),
        "{} {}",
        landing.status,
        landing.text()
    );
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_status_tell_how_it_goes() {
    let served = Served::start(&[("auth.tokens", &format!("ops={TOKEN}"))]).await.ready().await;
    let api = crate::client::Client { token: Some(TOKEN.to_owned()), ..served.api.clone() };
    let status: Value = api.get_json("/api/v1/status").await;
    assert_eq!((&status["database"], &status["broker"], &status["landing"]), (&"sqlite".into(), &"embedded".into(), &"directory".into()));
    assert!(status["readiness"]["ready"].as_bool().unwrap() && status["dispatch"]["loops"]["scans"].is_u64(), "{status}");
    let metrics = api.get("/metrics").await.text();
    for name in ["muster_http_requests_total", "muster_http_seconds_bucket", "muster_mqtt_connected", "muster_store_seconds"] {
        assert!(metrics.contains(name), "{name} is not among:\n{metrics}");
    }
    assert!(metrics.contains("route=\"/api/v1/status\"") && !metrics.contains(TOKEN));
    served.controller.stop().await;
}

#[test]
fn the_committed_description_is_that_of_the_handlers() {
    let made = muster_controller::openapi_json();
    let committed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::fs::read_to_string(&committed).unwrap_or_default() != made {
        let fresh = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi.json");
        std::fs::write(&fresh, made).unwrap();
        panic!("docs/openapi.json is not what the handlers describe; `make openapi` writes it (a fresh one is at {})", fresh.display());
    }
}
