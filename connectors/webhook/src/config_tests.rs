use serde_json::json;

use super::*;

fn problems(config: serde_json::Value) -> Vec<String> {
    match validate(serde_json::from_value(config).unwrap()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

fn problem(config: serde_json::Value) -> String {
    let problems = problems(config);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].clone()
}

#[test]
fn a_url_alone_is_a_whole_configuration() {
    let config: WebhookConfig = serde_json::from_value(json!({"url": "https://example.com"})).unwrap();
    let plan = validate(config).unwrap();
    assert_eq!((plan.target.origin().as_str(), &*plan.target.path), ("https://example.com:443", "/"));
    assert_eq!((plan.timeout, plan.concurrency), (Duration::from_secs(10), 8));
    assert_eq!(plan.retry.attempts, 10);
}

#[test]
fn the_defaults_of_the_field_table_are_the_defaults_of_the_struct() {
    let typed: WebhookConfig = serde_json::from_value(json!({"url": "http://a"})).unwrap();
    let default = |path: &str| {
        WebhookConfig::FIELDS.iter().find(|f| f.path == path).and_then(|f| f.default).unwrap().to_owned()
    };
    let millis = |path: &str| rowstream_api::units::parse_duration(&default(path)).unwrap();
    assert_eq!(millis("timeout"), typed.timeout);
    assert_eq!(millis("retry.backoff_initial"), typed.retry.backoff_initial);
    assert_eq!(millis("retry.backoff_max"), typed.retry.backoff_max);
    assert_eq!(default("retry.attempts"), typed.retry.attempts.to_string());
    assert_eq!(default("concurrency"), typed.concurrency.to_string());
    assert_eq!(default("pending_bytes").parse(), Ok(typed.pending_bytes));
    assert_eq!(default("pending_records"), typed.pending_records.to_string());
    assert!(default("tombstones") == "skip" && typed.tombstones == Tombstones::Skip);
    assert!(default("body") == "event" && typed.body == BodyKind::Event);
}

#[test]
fn certificate_files_are_read_at_once_and_named() {
    let tls = json!({"ca_file": "/nowhere/ca.pem", "cert_file": "/nowhere/our.crt"});
    let problems = problems(json!({"url": "https://a", "tls": tls}));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("tls.ca_file: can't read certificates from `/nowhere/ca.pem`: No such file")
    );
    assert_eq!(problems[1], "tls.key_file: is required with `cert_file`");
}

#[test]
fn urls_are_read_as_typed() {
    let target = |text: &str| parse_url(text).unwrap();
    let typed = target("http://[::1]:8080/a?b=c");
    assert_eq!((&*typed.host, typed.port, &*typed.path), ("::1", 8080, "/a?b=c"));
    assert_eq!(typed.origin(), "http://[::1]:8080");
    assert_eq!(typed.host_header, "[::1]:8080");
    assert_eq!(&*target("https://example.com?x=1").path, "/?x=1");
    assert_eq!(target("https://[::1]/").origin(), "https://[::1]:443");
}

#[test]
fn every_bad_url_is_explained_without_what_may_be_secret_in_it() {
    for (url, expected) in [
        ("", "not a valid one"),
        ("example.com/hook", "not a valid one"),
        ("/t0ken", "the scheme is missing"),
        ("example.com", "the scheme is missing"),
        ("ftp://example.com/t0ken", "the scheme `ftp` is neither http nor https"),
        ("https://user:t0ken@example.com/", "put them into `headers.authorization`"),
        ("https:///t0ken", "not a valid one"),
        ("http://example.com:99999/t0ken", "the port is not a number from 1 to 65535"),
    ] {
        let text = problem(json!({"url": url}));
        assert!(text.starts_with("url: ") && text.contains(expected), "{url}: {text}");
        assert!(!text.contains("t0ken"), "{text}");
    }
}

#[test]
fn every_field_has_its_own_text() {
    let with = |path: &str, value: serde_json::Value| {
        let mut config = json!({"url": "http://a", "retry": {}, "signing": {}, "headers": {}});
        *config.pointer_mut("").unwrap() = {
            let mut config = config.clone();
            match path.split_once('.') {
                Some((outer, inner)) => config[outer][inner] = value,
                None => config[path] = value,
            }
            config
        };
        problem(config)
    };
    assert_eq!(with("retry.attempts", json!(0)), "retry.attempts: expected a number from 1 to 1000, got 0");
    assert_eq!(with("concurrency", json!(5000)), "concurrency: expected a number from 1 to 1024, got 5000");
    assert_eq!(
        with("pending_records", json!(0)),
        "pending_records: expected a number from 1 to 1000000, got 0"
    );
    assert_eq!(
        with("pending_bytes", json!("0B")),
        "pending_bytes: must be at least 1 byte; `16MiB` is the default"
    );
    assert_eq!(with("timeout", json!("0s")), "timeout: must be longer than zero and at most 1d");
    assert_eq!(
        with("retry.backoff_initial", json!("0ms")),
        "retry.backoff_initial: must be longer than zero and at most 1d"
    );
    assert_eq!(
        with("retry.backoff_max", json!("1ms")),
        "retry.backoff_max: must not be shorter than `retry.backoff_initial`"
    );
    assert_eq!(
        with("retry.backoff_max", json!("99999999999d")),
        "retry.backoff_max: must be longer than zero and at most 1d"
    );
    assert_eq!(
        with("headers.bad name", json!("x")),
        "headers.bad name: not a valid HTTP header name: letters, digits and `-` are"
    );
    assert_eq!(
        with("headers.Webhook-Id", json!("x")),
        "headers.Webhook-Id: `webhook-id` is set by Rowstream; remove it"
    );
    let broken = with("headers.authorization", json!("Bearer t0ken\n"));
    assert!(
        broken.starts_with("headers.authorization: the value holds characters") && !broken.contains("t0ken")
    );
    let secret = with("signing.secrets", json!(["hunter2"]));
    assert_eq!(
        secret,
        "signing.secrets[0]: expected `whsec_` and 24 to 64 bytes in base64; the prefix `whsec_` is missing"
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let found = problems(json!({
        "url": "nope", "concurrency": 0, "timeout": "0s",
        "headers": {"X-A": "1", "x-a": "2"}, "signing": {"secrets": ["a", "b"]},
    }));
    assert_eq!(found.len(), 6, "{found:?}");
}
