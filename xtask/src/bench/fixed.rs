//! A server that gives the same bytes to everybody, on the same HTTP stack: what it costs more to be a remote API is our own.

#![expect(clippy::print_stdout, reason = "says where it listens")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, SERVER};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::load::Target;
use crate::server::{Place, USER, runtime};

/// Serves a file's bytes until the process is killed; says its address on a line.
pub(crate) fn serve(file: &Path, certificate: &Path) -> Result<()> {
    let body = Bytes::from(std::fs::read(file)?);
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(certificate)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("https://{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (acceptor, body) = (acceptor.clone(), body.clone());
            tokio::spawn(async move {
                // A connection that fails shows in what asks.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|_| {
                    let response = Response::builder()
                        .header(CONTENT_TYPE, "application/json")
                        .header(SERVER, "Ganeti 3.1.0")
                        .body(Full::new(body.clone()));
                    async { Ok::<_, Infallible>(response.unwrap_or_default()) }
                });
                let http = auto::Builder::new(TokioExecutor::new());
                drop(http.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    })
}

/// Such a server in a process of its own; killed when it is dropped.
pub(crate) struct Fixed {
    child: Child,
    address: String,
}

impl Fixed {
    pub(crate) async fn start(place: &Place, body: &Bytes, certificate: &Path) -> Result<Self> {
        let file = place.path("fixed");
        tokio::fs::write(&file, body).await?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "--fixed"]).arg(&file).arg("--certificate").arg(certificate);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no standard output")?;
        let mut fixed = Self { child, address: String::new() };
        BufReader::new(output).read_line(&mut fixed.address)?;
        Ok(fixed)
    }

    pub(crate) fn target(&self) -> Target {
        Target { address: self.address.trim().to_owned(), user: USER }
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
