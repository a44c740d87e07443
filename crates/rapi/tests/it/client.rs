//! The client against a server that answers what it is told to.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use rapi::client::{Client, Trust};
use rapi::input::Method;

/// A server: what was asked of it, in the form `METHOD TARGET AUTHORIZATION BODY`, and what it still has to answer.
struct Server {
    url: String,
    pem: Vec<u8>,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a server that gives these answers in turn; after one whose flag is set it closes the connection.
async fn server(tls: bool, answers: Vec<(u16, Value, bool)>) -> Server {
    let key = rcgen::generate_simple_self_signed(["cluster.example.com".to_owned()]).unwrap();
    let pem = key.cert.pem().into_bytes();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let connections = Arc::new(Mutex::new(0));
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    let task = {
        let (asked, connections) = (asked.clone(), connections.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *connections.lock().unwrap() += 1;
                let (asked, answers) = (asked.clone(), answers.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (asked, answers) = (asked.clone(), answers.clone());
                    async move {
                        let head = format!("{} {}", request.method(), request.uri());
                        let header = request.headers().get("authorization");
                        let user = header.map(|value| value.to_str().unwrap().to_owned());
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let body = String::from_utf8(body.into()).unwrap();
                        let line = format!("{head} {} {body}", user.unwrap_or_default());
                        asked.lock().unwrap().push(line.trim_end().to_owned());
                        let (status, answer, close) = answers.lock().unwrap().next().unwrap();
                        let mut reply = Response::builder().status(status);
                        if close {
                            reply = reply.header("connection", "close");
                        }
                        let reply = reply.body(Full::new(Bytes::from(answer.to_string())));
                        Ok::<_, Infallible>(reply.unwrap())
                    }
                });
                let builder = hyper::server::conn::http1::Builder::new();
                // A client that refuses the certificate ends its connection here.
                if tls {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
                    }
                } else {
                    tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
                }
            }
        })
    };
    Server { url, pem, asked, connections, task }
}

#[tokio::test]
async fn calls_say_what_they_ask_and_hear_what_is_answered() {
    let refusal = json!({"code": 400, "message": "Can&#x27;t", "explain": "Bad request"});
    let server = server(
        true,
        vec![(200, json!(4711), false), (400, refusal, false), (200, json!([]), false)],
    );
    let server = server.await;
    let client = Client::new(&server.url, &Trust::Any).unwrap().user("jack", "abc123");
    let path = rapi::client::path("/2/nodes/{node_name}/tags", &["node1"]).unwrap();
    let query = [("tag", "a b"), ("dry-run", "1")];
    let id = client.submit(Method::Put, &path, &query, Some(&json!(["c"]))).await;
    assert_eq!(id, Ok(4711));
    let error = client.call(Method::Get, "/2/info", &[], None).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "Can't"));
    assert_eq!(error.to_string(), "400 Can't: Bad request");
    assert_eq!(client.call(Method::Get, "/2/jobs", &[], None).await, Ok(json!([])));
    assert_eq!(
        *server.asked.lock().unwrap(),
        [
            "PUT /2/nodes/node1/tags?tag=a%20b&dry-run=1 Basic amFjazphYmMxMjM= [\"c\"]",
            "GET /2/info Basic amFjazphYmMxMjM=",
            "GET /2/jobs Basic amFjazphYmMxMjM=",
        ]
    );
    assert_eq!(*server.connections.lock().unwrap(), 1, "the connection is kept");
}

#[tokio::test]
async fn a_connection_that_was_closed_is_made_again() {
    let server = server(false, vec![(200, json!(1), true), (200, json!(2), false)]).await;
    let client = Client::new(&server.url, &Trust::Any).unwrap();
    for expected in [1, 2] {
        assert_eq!(client.call(Method::Get, "/version", &[], None).await, Ok(json!(expected)));
    }
    assert_eq!(*server.connections.lock().unwrap(), 2);
}

#[tokio::test]
async fn only_certificates_that_are_trusted_will_do() {
    let server = server(true, vec![(200, json!(2), false)]).await;
    let other = rcgen::generate_simple_self_signed(["cluster.example.com".to_owned()]).unwrap();
    let stranger = Client::new(&server.url, &Trust::Pem(other.cert.pem().into_bytes())).unwrap();
    let error = stranger.call(Method::Get, "/version", &[], None).await.unwrap_err();
    assert_eq!(error.code, 0, "{error}");
    let friend = Client::new(&server.url, &Trust::Pem(server.pem.clone())).unwrap();
    assert_eq!(friend.call(Method::Get, "/version", &[], None).await, Ok(json!(2)));
}

#[tokio::test]
async fn waiting_follows_a_job_to_its_end() {
    let entry = json!([1, [1, 2], "message", "half way"]);
    let answers = vec![
        (200, json!({"job_info": ["running"], "log_entries": [entry]}), false),
        (200, json!(null), false),
        (200, json!({"job_info": ["success"], "log_entries": []}), false),
        (200, json!({"id": 7, "status": "success"}), false),
    ];
    let server = server(false, answers).await;
    let client = Client::new(&server.url, &Trust::Any).unwrap();
    let mut log = Vec::new();
    let job = client.wait(7, |entry| log.push(entry.clone())).await.unwrap();
    assert_eq!((&job["status"], log), (&json!("success"), vec![entry]));
    let asked = server.asked.lock().unwrap();
    let seen = r#"GET /2/jobs/7/wait  {"fields":["status"],"previous_log_serial":1,"previous_job_info":["running"]}"#;
    assert_eq!(asked[0], r#"GET /2/jobs/7/wait  {"fields":["status"]}"#);
    assert_eq!((asked[1].as_str(), asked[2].as_str()), (seen, seen));
    assert_eq!(asked[3], "GET /2/jobs/7");
}
