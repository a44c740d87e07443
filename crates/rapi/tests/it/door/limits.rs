//! Limits, listening, and the end of a server.

use std::time::Duration;

use tokio::time::timeout;

use rapi::serve::{Options, Server, StartError};
use rapi::users::Users;

use super::client::{LIMIT, WRITER, start, start_with};
use super::engine::StandIn;

const PUT: &str =
    "PUT /2/tags?tag=a HTTP/1.1\r\nHost: x\r\nAuthorization: Basic d3JpdGVyOnB3\r\n\r\n";

fn wait_request() -> String {
    let body =
        "{\"fields\": [\"status\"], \"previous_job_info\": null, \"previous_log_serial\": null}";
    let length = body.len();
    format!(
        "GET /2/jobs/1/wait HTTP/1.1\r\nHost: x\r\n{WRITER}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn requests_at_work_are_bounded_and_those_that_wait_hold_nothing() {
    let server = start_with(StandIn::closed(), false, |options| options.max_clients = 1);
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    let mut waiting = server.connect().await;
    let _idle = server.connect().await;
    first.send(PUT).await;
    timeout(LIMIT, server.engine.submissions.acquire()).await.unwrap().unwrap().forget();
    second.send(PUT).await;
    server.until(|counted| counted.requests_queued == 1 && counted.requests_at_work == 1).await;
    waiting.send(&wait_request()).await;
    timeout(LIMIT, server.engine.waits.acquire()).await.unwrap().unwrap().forget();
    assert_eq!(server.engine.submissions.available_permits(), 0, "the second has not begun");
    server.engine.gate.add_permits(1);
    assert_eq!(first.response().await.body, "1\n");
    server.engine.gate.add_permits(1);
    assert_eq!(second.response().await.body, "2\n");
    server.until(|counted| counted.requests_waiting == 1 && counted.requests_at_work == 0).await;
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_it_began() {
    let mut server = start_with(StandIn::closed(), false, |_| {});
    let mut working = server.connect().await;
    let mut waiting = server.connect().await;
    let mut idle = server.connect().await;
    idle.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(idle.response().await.status, 200);
    working.send(PUT).await;
    waiting.send(&wait_request()).await;
    timeout(LIMIT, server.engine.submissions.acquire()).await.unwrap().unwrap().forget();
    timeout(LIMIT, server.engine.waits.acquire()).await.unwrap().unwrap().forget();
    server.stop();
    assert_eq!(waiting.response().await.body, "null\n");
    assert!(waiting.is_closed().await && idle.is_closed().await);
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
    server.engine.gate.add_permits(1);
    assert_eq!(working.response().await.body, "1\n");
    assert!(working.is_closed().await);
    server.ended().await;
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let server = start(|options| options.body_bytes = 1000);
    let head =
        format!("PUT /2/tags HTTP/1.1\r\nHost: x\r\n{WRITER}Content-Type: application/json\r\n");
    let at_most = format!("{head}Content-Length: 1000\r\n\r\n\"{}\"", "x".repeat(998));
    assert_ne!(server.send(&at_most).await.status, 413);
    let said = format!("{head}Content-Length: 200000\r\n\r\n{}", "x".repeat(200_000));
    let response = server.send(&said).await;
    assert_eq!(response.status, 413);
    assert_eq!(response.message(), "The body has more than the 1000 bytes that are accepted");
    let unsaid =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001));
    assert_eq!(server.send(&unsaid).await.status, 413);
    // Who asks first is spared the sending.
    let asked = format!("{head}Content-Length: 200000\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(server.send(&asked).await.status, 413);
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = start(|_| {});
    let long = format!("GET /version HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(server.send(&long).await.status, 431);
    let many = format!("GET /version HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(server.send(&many).await.status, 431);
    assert_eq!(server.send("nonsense\r\n\r\n").await.status, 400);
}

#[tokio::test]
async fn clients_that_say_nothing_are_given_up() {
    let short = Duration::from_millis(100);
    let server = start(|options| {
        (options.head_time, options.body_time, options.idle_time) = (short, short, short);
    });
    let head = format!("PUT /2/tags HTTP/1.1\r\nHost: x\r\n{WRITER}");
    for text in ["", "G", "GET /version HTTP/1.1\r\nHost:", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = server.connect().await;
        client.send(text).await;
        // What an HTTP/2 server says first is not of interest.
        let _ = client.is_closed().await;
    }
    let mut client = server.connect().await;
    client.send(&format!("{head}Content-Length: 10\r\n\r\n12345")).await;
    let response = client.response().await;
    assert_eq!((response.status, response.message().as_str()), (408, "Request Timeout"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn addresses_are_as_asked() {
    let server = start(|options| {
        options.listen = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    });
    let ports: Vec<u16> = server.addresses.iter().map(std::net::SocketAddr::port).collect();
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    for address in &server.addresses {
        assert!(tokio::net::TcpStream::connect(address).await.is_ok(), "{address}");
    }
    let bind = |change: &dyn Fn(&mut Options)| {
        let mut options = Options::new(None, std::sync::Arc::new(Users::new(None)));
        options.listen = vec!["127.0.0.1:0".parse().unwrap()];
        change(&mut options);
        Server::bind(StandIn::open(), options).err()
    };
    let error = bind(&|options| options.listen = vec![server.address]).unwrap();
    assert_eq!(
        error.to_string(),
        format!("{} is in use: another server listens there", server.address)
    );
    assert!(matches!(bind(&|options| options.listen.clear()), Some(StartError::NoAddress)));
    assert!(matches!(bind(&|options| options.max_clients = 0), Some(StartError::NoClients)));
    let origin = bind(&|options| options.cors_origins = vec!["*".into()]);
    assert!(matches!(origin, Some(StartError::Origin(_))));
    assert!(bind(&|_| {}).is_none());
    let mut options = Options::new(None, std::sync::Arc::new(Users::new(None)));
    assert!(!options.is_wide_open());
    options.listen = vec!["0.0.0.0:5080".parse().unwrap()];
    assert!(options.is_wide_open());
    options.require_authentication = true;
    assert!(!options.is_wide_open());
}
