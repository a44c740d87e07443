//! The users file of a server that runs.

use std::fs;

use super::client::{PLAIN, READER, WRITER, WRONG, start};

#[tokio::test]
async fn a_change_counts_from_the_next_request_on() {
    let server = start(|_| {});
    let path = server.path("users");
    assert_eq!(server.get("/version", WRITER).await.status, 200);
    for round in 0..20 {
        // The same length, in the same file, as fast as it goes.
        fs::write(&path, "writer px write\nreader pw read\nplain pw\n").unwrap();
        assert_eq!(server.get("/version", WRITER).await.status, 401, "{round}");
        assert_eq!(server.get("/version", READER).await.status, 200, "{round}");
        fs::write(&path, "writer pw write\nreader pw read\nplain pw\n").unwrap();
        assert_eq!(server.get("/version", WRITER).await.status, 200, "{round}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(server.get("/version", WRITER).await.status, 401);
    assert_eq!(server.get("/version", "").await.status, 200);
    fs::write(&path, "writer pw write\n").unwrap();
    assert_eq!(server.get("/version", WRITER).await.status, 200);
    assert_eq!(server.get("/version", PLAIN).await.status, 401);
    // What is not text changes nothing.
    fs::write(&path, b"writer x write\n\xff\n").unwrap();
    assert_eq!(server.get("/version", WRITER).await.status, 200);
    assert_eq!(server.get("/version", WRONG).await.status, 401);
}
