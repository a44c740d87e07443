//! HTTP/1: the order of checks, the documents, and what is more than Ganeti's daemon does.

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;

use rapi::serve::Caller;

use super::client::{
    Client, PLAIN, READER, Response, WRITER, WRONG, connect_tls, start, start_tls,
};

#[tokio::test]
async fn checks_come_in_ganetis_order() {
    let server = start(|_| {});
    let strict = start(|options| options.require_authentication = true);
    let json = "Content-Type: application/json\r\n";
    // Method and target, headers, body; status of a server and of one that requires authentication; message.
    let cases: &[(&str, &str, &str, u16, u16, &str)] = &[
        ("GET /nosuch", "", "", 404, 401, "Not Found"),
        ("GET /2/", WRITER, "", 404, 404, "Not Found"),
        ("GET /2/instances/a%2Fb", WRITER, "", 404, 404, "Not Found"),
        ("PATCH /nosuch", WRITER, "", 404, 404, "Not Found"),
        (
            "PATCH /2/info?bulk=1",
            "",
            "",
            501,
            401,
            "Method PATCH is unsupported for path /2/info?bulk=1",
        ),
        ("OPTIONS /2/tags", WRONG, "", 501, 501, "Method OPTIONS is unsupported for path /2/tags"),
        ("post /2/info", WRITER, "", 501, 501, "Method POST is unsupported for path /2/info"),
        ("PUT /2/tags?tag=a", "", "", 401, 401, "Unauthorized"),
        ("PUT /2/tags?tag=a", WRONG, "x", 401, 401, "Unauthorized"),
        ("GET /version", WRONG, "", 401, 401, "Unauthorized"),
        ("GET /version", "Authorization: Digest abc\r\n", "", 401, 401, "Unauthorized"),
        ("GET /version", "Authorization: Basic !\r\n", "", 401, 401, "Unauthorized"),
        ("GET /version", "Authorization: \r\n", "", 401, 401, "Unauthorized"),
        (
            "GET /version",
            "Authorization: Basic\r\n",
            "",
            400,
            400,
            "Basic authentication requires credentials",
        ),
        ("GET /nosuch", "Authorization: Basic\r\n", "", 404, 400, ""),
        ("PUT /2/tags?tag=a", PLAIN, "x", 403, 403, "Forbidden"),
        ("PUT /2/tags?tag=a", READER, "x", 403, 403, "Forbidden"),
        ("GET /2/query/node", PLAIN, "", 403, 403, "Forbidden"),
        ("PUT /2/tags?tag=a", WRITER, "{", 415, 415, "Unsupported Media Type"),
        ("GET /version", WRITER, "{}", 415, 415, "Unsupported Media Type"),
        ("PUT /2/tags?tag=a", &[WRITER, json].concat(), "{", 400, 400, "Unable to parse JSON data"),
        (
            "PUT /2/tags?dry-run=x",
            &[WRITER, json].concat(),
            "",
            400,
            400,
            "Invalid value for the &#x27;dry-run&#x27; parameter",
        ),
        ("GET /version", &[PLAIN, json].concat(), "", 200, 200, ""),
        ("GET /version", &[PLAIN, json].concat(), "[]", 200, 200, ""),
        ("get /version", "", "", 200, 401, ""),
        ("GET /versio%6e", PLAIN, "", 200, 200, ""),
        ("PUT /2/tags?tag=a", WRITER, "", 200, 200, ""),
        (
            "PUT /2/tags?tag=a",
            &[WRITER, "Content-Type: application/json; charset=utf-8\r\n"].concat(),
            "{}",
            200,
            200,
            "",
        ),
        ("GET /2/nodes", READER, "", 500, 500, "this is a stand-in"),
        ("PUT /2/jobs/1/cancel", WRITER, "", 404, 404, "Not Found"),
        ("DELETE /2/jobs/1", WRITER, "", 500, 500, "Internal Server Error"),
    ];
    for (line, headers, body, open, closed, message) in cases {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n{body}");
        for (server, expected) in [(&server, open), (&strict, closed)] {
            let response = server.send(&request).await;
            assert_eq!(response.status, *expected, "{request} {response:?}");
            assert_eq!(response.header("content-type"), Some("application/json"), "{request}");
            assert_eq!(response.header("server"), Some("Ganeti 3.1.1"), "{request}");
            assert!(response.header("date").is_some(), "{request}");
            assert!(response.body.ends_with('\n'), "{request}");
            let challenge = (response.status == 401).then_some("Basic realm=\"Ganeti Remote API\"");
            assert_eq!(response.header("www-authenticate"), challenge, "{request}");
            if response.status == *open && response.status != 200 && !message.is_empty() {
                assert_eq!(response.message(), *message, "{request}");
            }
        }
    }
}

#[tokio::test]
async fn answers_are_json() {
    let server = start(|_| {});
    let check = |response: Response, body: &str| assert_eq!(response.body, body);
    check(server.get("/version", "").await, "2\n");
    check(server.get("/2/tags", "").await, "[\"t\\u00e4g\"]\n");
    check(
        server.get("/2/nosuch", "").await,
        "{\"code\": 404, \"message\": \"Not Found\", \"explain\": \"Nothing matches the given URI\"}\n",
    );
    let response = server.get("/2/info", "").await;
    assert!(
        response.body.len() > 1 << 20
            && response.body.contains("\"name\": \"cluster.example.com\", ")
    );
}

#[tokio::test]
async fn connections_are_kept_as_long_as_the_client_wants() {
    let server = start(|_| {});
    let mut client = server.connect().await;
    for _ in 0..3 {
        client.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(client.response().await.body, "2\n");
    }
    // A refused body is read to its end, so the next request is found.
    client
        .send(&format!(
            "PUT /2/tags HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{}",
            "x".repeat(100_000)
        ))
        .await;
    assert_eq!(client.response().await.status, 401);
    // Pipelined.
    let one = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(&one.repeat(2)).await;
    assert_eq!(client.response().await.body, "2\n");
    assert_eq!(client.response().await.body, "2\n");
    client.send("GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert!(client.is_closed().await);

    let mut client = server.connect().await;
    client.send("GET /version HTTP/1.0\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.version.as_str(), response.status), ("HTTP/1.0", 200));
    assert!(client.is_closed().await);
    assert_eq!(server.send("GET /version HTTP/1.1\r\n\r\n").await.message(), "Missing Host header");
}

#[tokio::test]
async fn bodies_may_come_in_chunks_or_after_a_go_ahead() {
    let server = start(|_| {});
    let head = format!(
        "PUT /2/tags?tag=a HTTP/1.1\r\nHost: x\r\n{WRITER}Content-Type: application/json\r\n"
    );
    let chunked =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n4\r\n\"b\"]\r\n0\r\n\r\n");
    assert_eq!(server.send(&chunked).await.body, "1\n");
    let mut client = server.connect().await;
    client.send(&format!("{head}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")).await;
    assert_eq!(client.head().await.1, 100);
    client.send("{}").await;
    assert_eq!(client.response().await.body, "2\n");
    let empty = format!("{head}Content-Length: 0\r\n\r\n");
    assert_eq!(server.send(&empty).await.body, "3\n");
    // HEAD has the head of the refusal and no body, as HTTP wants it.
    let mut client = server.connect().await;
    client.send("HEAD /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.head().await.1, 501);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn pages_of_named_origins_may_use_the_api() {
    let origin = "https://console.example.com";
    let server = start(|options| options.cors_origins = vec![origin.into()]);
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /2/tags HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
        )
    };
    let response = server.send(&preflight(origin)).await;
    assert_eq!(response.status, 204);
    assert_eq!(response.header("access-control-allow-origin"), Some(origin));
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
    assert!(response.header("access-control-allow-methods").unwrap().contains("DELETE"));
    assert!(response.header("access-control-allow-headers").unwrap().contains("Authorization"));
    let response = server.send(&preflight("https://evil.example.com")).await;
    assert_eq!((response.status, response.header("access-control-allow-origin")), (501, None));

    let response = server.get("/version", &format!("Origin: {origin}\r\n")).await;
    assert_eq!(
        (response.status, response.header("access-control-allow-origin")),
        (200, Some(origin))
    );
    assert_eq!(response.header("vary"), Some("Origin"));
    let response = server.get("/2/nosuch", &format!("Origin: {origin}\r\n")).await;
    assert_eq!(
        (response.status, response.header("access-control-allow-origin")),
        (404, Some(origin))
    );
    let response = server.get("/version", "Origin: null\r\n").await;
    assert_eq!((response.status, response.header("access-control-allow-origin")), (200, None));

    let server = start(|_| {});
    assert_eq!(server.send(&preflight(origin)).await.status, 501);
    assert_eq!(server.get("/version", &format!("Origin: {origin}\r\n")).await.header("vary"), None);
}

#[tokio::test]
async fn what_is_beside_the_api_has_the_same_users() {
    let whoami = |Extension(Caller(user)): Extension<Caller>| async move {
        user.map_or("nobody".to_owned(), |user| user.name)
    };
    let router = Router::new()
        .route("/metrics", get(whoami))
        .route("/rapid/1/whoami", get(whoami).post(whoami));
    let server = start(|options| options.extra = router.clone());
    let strict = start(|options| {
        options.extra = router;
        options.require_authentication = true;
    });
    assert_eq!(server.get("/metrics", "").await.body, "nobody");
    assert_eq!(server.get("/metrics", PLAIN).await.body, "plain");
    assert_eq!(server.get("/metrics", WRONG).await.status, 401);
    assert_eq!(strict.get("/metrics", "").await.status, 401);
    assert_eq!(strict.get("/metrics", PLAIN).await.status, 200);
    assert_eq!(server.get("/rapid/1/whoami", "").await.status, 401);
    assert_eq!(server.get("/rapid/1/whoami", PLAIN).await.status, 403);
    assert_eq!(server.get("/rapid/1/whoami", READER).await.body, "reader");
    let post = |user: &str| format!("POST /rapid/1/whoami HTTP/1.1\r\nHost: x\r\n{user}\r\n");
    assert_eq!(server.send(&post(READER)).await.status, 403);
    assert_eq!(server.send(&post(WRITER)).await.body, "writer");
}

#[tokio::test]
async fn tls_is_spoken_and_a_new_certificate_is_used() {
    let server = start_tls(|_| {});
    let pem = server.path("rapi.pem");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&pem).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let stream = connect_tls(server.address, &pem, "http/1.1").await.unwrap();
    let mut client = Client::new(stream);
    client.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.response().await.body, "2\n");
    // Text on a TLS port is no request.
    let mut plain = server.connect().await;
    plain.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let _ = plain.is_closed().await;
    server.until(|counted| counted.handshakes_failed == 1).await;
    // The connection made before is not disturbed.
    client.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.response().await.body, "2\n");
}
