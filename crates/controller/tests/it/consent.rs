//! Decisions about consent over HTTP: who may, what is refused and stays on record, and the terms.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::collections::known;
use crate::device::Device;
use crate::harness::Served;

const CONSENT: &str = "/api/v1/consent";

fn decision(scope: &Value) -> Value {
    json!({
        "scope": scope,
        "on_behalf_of": { "id": "ada@contoso.example", "role": "tenant-owner", "auth": "mfa" },
        "channel": "portal",
    })
}

fn with(mut body: Value, member: &str, value: Value) -> Value {
    match member.split_once('.') {
        Some((outer, inner)) => body[outer][inner] = value,
        None => body[member] = value,
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_the_customers() {
    let served = Served::start(&[]).await.ready().await;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let device = json!({ "type": "device", "id": "press-1" });
    let tenant = json!({ "type": "tenant", "id": "contoso" });
    let site = json!({ "type": "site", "id": "oslo", "tenant": "contoso" });
    let grant = format!("{CONSENT}/grant");

    // GOV-11: no vendor identity, under whatever name.
    for body in [
        json!({ "scope": device }),
        json!({ "scope": device, "channel": "portal" }),
        with(decision(&device), "on_behalf_of.role", json!("vendor")),
        with(decision(&tenant), "on_behalf_of.role", json!("system")),
    ] {
        let answer = served.api.post(&grant, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "vendor_cannot_decide"), "{body}");
    }
    for (scope, role) in [(&site, "device-owner"), (&tenant, "site-owner")] {
        let answer = served.api.post(&grant, &with(decision(scope), "on_behalf_of.role", json!(role))).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "role_too_small"), "{scope} {role}");
    }
    let audit: Value = served.api.get_json(&format!("{CONSENT}/audit")).await;
    let lines = audit["items"].as_array().unwrap();
    assert_eq!(lines.len(), 6, "{audit}");
    assert!(lines.iter().all(|line| line["what"] == "refused" && line["who"] == "local"), "{audit}");
    let page: Value = served.api.get_json(&format!("{CONSENT}/audit?limit=4")).await;
    let rest: Value = served.api.get_json(&format!("{CONSENT}/audit?limit=4&after={}", page["next"].as_str().unwrap())).await;
    assert_eq!((page["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (4, 2));

    // Everything that cannot be, at its edge.
    let long = "x".repeat(201);
    for (body, status, code) in [
        (with(decision(&device), "kind", json!("memory_dump")), 422, "consent_kind_unsupported"),
        (with(decision(&device), "kind", json!("all")), 422, "invalid_body"),
        (with(decision(&device), "channel", json!("activation")), 422, "invalid_decision"),
        (with(decision(&device), "channel", Value::Null), 422, "invalid_decision"),
        (with(decision(&device), "reason", json!(long)), 422, "invalid_decision"),
        (with(decision(&device), "on_behalf_of.id", json!(" ")), 422, "invalid_decision"),
        (with(decision(&device), "on_behalf_of.id", json!("a\nb")), 422, "invalid_decision"),
        (with(decision(&device), "expires_at", json!("2020-01-01T00:00:00Z")), 422, "invalid_decision"),
        (with(decision(&device), "terms_version", json!("1999-01-01")), 422, "terms_not_current"),
        (with(decision(&device), "locale", json!("tlh")), 422, "terms_not_current"),
        (with(decision(&device), "expect_version", json!(7)), 409, "consent_overtaken"),
        (decision(&json!({ "type": "device", "id": "nobody" })), 404, "device_not_found"),
        (decision(&json!({ "type": "site", "id": "oslo" })), 422, "invalid_body"),
        (decision(&json!({ "type": "tenant", "id": "" })), 422, "invalid_decision"),
    ] {
        let answer = served.api.post(&grant, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
    let at_the_edge = with(decision(&device), "reason", json!("x".repeat(200)));
    let answer = served.api.post(&grant, &with(at_the_edge, "expect_version", json!(0))).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made: Value = answer.json();
    assert_eq!(
        (made["record"]["decision"].as_str(), made["record"]["version"].as_u64(), made["cancelled"].as_u64()),
        (Some("granted"), Some(1), Some(0))
    );
    let again = served.api.post(&grant, &decision(&device)).await;
    // Suspended, because this device says nothing of it: the owner may say so again.
    assert_eq!(again.status, 201, "{}", again.text());
    assert_eq!(served.api.post(&grant, &decision(&tenant)).await.status, 201);
    let twice = served.api.post(&grant, &decision(&tenant)).await;
    assert_eq!((twice.status, twice.code().as_str()), (409, "consent_unchanged"));

    let view: Value = served.api.get_json(&format!("{CONSENT}/effective?device=press-1")).await;
    assert_eq!((view["state"].as_str(), view["device_says"]["flag"].as_str()), (Some("suspended"), Some("unknown")), "{view}");
    assert_eq!(view["history"].as_array().unwrap().len(), 2);
    assert_eq!(view["history"][0]["actor"]["id"], "ada@contoso.example");
    let view: Value = served.api.get_json(&format!("{CONSENT}/effective?tenant=contoso")).await;
    assert_eq!(view["state"], "granted");
    let view: Value = served.api.get_json(&format!("{CONSENT}/effective?site=oslo&tenant=contoso")).await;
    assert_eq!((view["state"].as_str(), view["standings"].as_array().unwrap().len()), (Some("granted"), 2), "{view}");
    for bad in ["", "?site=oslo", "?device=press-1&tenant=contoso", "?device=a/b", "?what=1"] {
        assert_eq!(served.api.get(&format!("{CONSENT}/effective{bad}")).await.status, 400, "{bad}");
    }
    assert_eq!(served.api.get(&format!("{CONSENT}/effective?device=nobody")).await.status, 404);
    let list: Value = served.api.get_json(&format!("{CONSENT}?limit=1")).await;
    assert_eq!(list["items"][0]["scope"], tenant, "the newest first: {list}");
    let rest: Value = served.api.get_json(&format!("{CONSENT}?after={}", list["next"].as_str().unwrap())).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    let granted: Value = served.api.get_json(&format!("{CONSENT}?state=granted&tenant=contoso&scope_type=tenant")).await;
    assert_eq!(granted["items"].as_array().unwrap().len(), 1);

    let revoke = format!("{CONSENT}/revoke");
    assert_eq!(served.api.post(&revoke, &json!({ "scope": tenant })).await.status, 403, "the vendor ends none either");
    let answer = served.api.post(&revoke, &decision(&tenant)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let view: Value = served.api.get_json(&format!("{CONSENT}/effective?tenant=contoso")).await;
    assert_eq!((view["state"].as_str(), view["history"][1]["decision"].as_str()), (Some("revoked"), Some("granted")));
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_are_texts_with_their_digest() {
    let served = Served::start(&[]).await.ready().await;
    let terms = format!("{CONSENT}/terms");
    let shipped: Value = served.api.get_json(&terms).await;
    let shipped = &shipped["items"][0];
    assert_eq!((shipped["default"].as_str(), shipped["material"].as_bool(), shipped.get("text")), (Some("opt_in"), Some(false), None));
    let shown: Value = served.api.get_json(&format!("{terms}/{}?locale=en-GB", shipped["version"].as_str().unwrap())).await;
    let digest = |text: &str| Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(shown["sha256"], digest(shown["text"].as_str().unwrap()), "of the text that comes with the program");
    assert_eq!(served.api.get(&format!("{terms}/1999-01-01")).await.code(), "terms_not_found");

    let new = json!({ "version": "2027-01-01", "locale": "nb-NO", "default": "default_on", "material": true, "text": "Nye vilkår" });
    let answer = served.api.post(&terms, &new).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made: Value = answer.json();
    assert_eq!((made["number"].as_u64(), made["sha256"].as_str()), (Some(2), Some(digest("Nye vilkår").as_str())));
    for (body, status, code) in [
        (new.clone(), 409, "terms_exist"),
        (with(with(new.clone(), "locale", json!("en-GB")), "material", json!(false)), 409, "terms_exist"),
        (with(new.clone(), "version", json!("a b")), 422, "invalid_terms"),
        (with(new.clone(), "version", json!("x".repeat(33))), 422, "invalid_terms"),
        (with(new.clone(), "text", json!(" ")), 422, "invalid_terms"),
        (with(new.clone(), "text", json!("x".repeat(100_001))), 422, "invalid_terms"),
        (with(new.clone(), "kind", json!("identity")), 422, "consent_kind_unsupported"),
        (with(new.clone(), "who", json!("me")), 422, "invalid_body"),
    ] {
        let answer = served.api.post(&terms, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    }
    let whole = with(with(new, "version", json!("2027-02-01")), "text", json!("x".repeat(100_000)));
    assert_eq!(served.api.post(&terms, &whole).await.status, 201);
    served.controller.stop().await;
}
