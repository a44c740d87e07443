//! HTTP/2, agreed on in TLS or known beforehand.

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{LIMIT, connect_tls, start, start_tls};

async fn converse(io: impl Read + Write + Unpin + Send + 'static) {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |method: &str, path: &str, body: &'static str| {
        Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header("Authorization", "Basic d3JpdGVyOnB3")
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap()
    };
    let cases = [
        ("GET", "/version", "", StatusCode::OK, "2\n"),
        ("PUT", "/2/tags?tag=a", "{}", StatusCode::OK, "1\n"),
        ("PUT", "/2/tags?tag=b", "", StatusCode::OK, "2\n"),
        (
            "PATCH",
            "/2/tags?tag=b",
            "",
            StatusCode::NOT_IMPLEMENTED,
            "{\"code\": 501, \"message\": \"Method PATCH is unsupported for path /2/tags?tag=b\", \
             \"explain\": \"Server does not support this operation\"}\n",
        ),
    ];
    for (method, path, body, status, expected) in cases {
        let response = timeout(LIMIT, sender.send_request(request(method, path, body)));
        let response = response.await.unwrap().unwrap();
        assert_eq!((response.version(), response.status()), (Version::HTTP_2, status), "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, expected, "{path}");
    }
    // Many at once, on one connection.
    let many = (0..20).map(|_| {
        let response = sender.send_request(request("GET", "/2/info", ""));
        async { response.await.unwrap().into_body().collect().await.unwrap().to_bytes() }
    });
    for body in timeout(LIMIT, futures::future::join_all(many)).await.unwrap() {
        assert!(body.len() > 1 << 20);
    }
    drop(sender);
    timeout(LIMIT, connection).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn over_tls() {
    let server = start_tls(|_| {});
    let stream = connect_tls(server.address, &server.path("rapi.pem"), "h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    converse(TokioIo::new(stream)).await;
}

#[tokio::test]
async fn over_tcp_with_prior_knowledge() {
    let server = start(|_| {});
    converse(TokioIo::new(TcpStream::connect(server.address).await.unwrap())).await;
}
