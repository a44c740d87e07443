//! One request, from its head to its answer: [`Door::handle`], and in [`Door::answer`] Ganeti's order of checks.
//!
//! What always holds: an answer is JSON with Ganeti's headers, also when it is a refusal; a request that only waits holds no
//! slot; a panic costs its request and nothing else.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use bytes::Bytes;
use futures::FutureExt;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, SERVER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{Either, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use model::engine::Engine;

use crate::cors::Cors;
use crate::error::HttpError;
use crate::input::{Input, Method};
use crate::json;
use crate::metrics::{Metrics, Place};
use crate::request;
use crate::resources;
use crate::route::{self, Access, Reply, Route};
use crate::users::{Credentials, User, Users};

/// The body of a response: bytes of ours, or what the program serves beside the API.
pub(crate) type Body = Either<Full<Bytes>, axum::body::Body>;

/// The log target of the line that each request leaves.
pub const ACCESS_LOG: &str = "rapi::access";

/// Who sent a request that the program serves beside the API: an extension of the request. `None` is someone without
/// credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub Option<User>);

/// All that answering a request needs.
pub(crate) struct Door {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) users: Arc<Users>,
    pub(crate) require_authentication: bool,
    pub(crate) cors: Cors,
    /// One for each request that may be at work.
    pub(crate) slots: Semaphore,
    pub(crate) body_bytes: usize,
    pub(crate) body_time: Duration,
    pub(crate) extra: Router,
    pub(crate) metrics: Arc<Metrics>,
    /// The `Server` header.
    pub(crate) server: HeaderValue,
    /// Becomes true when the server stops.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Door {
    /// Answers a request that came from there, and logs it as Ganeti does (3.0.2, `http/server.py`).
    pub(crate) async fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<Body> {
        let began = Instant::now();
        let (parts, incoming) = request.into_parts();
        let line = tracing::enabled!(target: ACCESS_LOG, tracing::Level::INFO)
            .then(|| access_line(&parts, peer));
        let origin = self.cors.origin(&parts.headers).cloned();
        let mut place = Place::Unknown;
        let mut response = if self.cors.is_preflight(&parts.method, &parts.headers) {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            self.cors.allow(response.headers_mut());
            response
        } else {
            let answering = self.route(parts, incoming, &mut place);
            AssertUnwindSafe(answering).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("a request was given up because of a bug, described above");
                refusal(&HttpError::plain(500))
            })
        };
        let headers = response.headers_mut();
        headers.insert(SERVER, self.server.clone());
        self.cors.mark(origin, headers);
        let status = response.status().as_u16();
        self.metrics.answered(place, status, began.elapsed());
        if let Some(line) = line {
            tracing::info!(target: ACCESS_LOG, "{line} {status}");
        }
        response
    }

    async fn route(
        &self,
        parts: Parts,
        mut incoming: Incoming,
        place: &mut Place,
    ) -> Response<Body> {
        if let Some(access) = extra_access(&parts) {
            *place = Place::Extra;
            return match self.admit(&parts, access).await {
                Ok(user) => self.call_extra(parts, incoming, user).await,
                Err(error) => {
                    request::discard(&parts.headers, &mut incoming).await;
                    refusal(&error)
                }
            };
        }
        match self.answer(&parts, &mut incoming, place).await {
            Ok(Reply::Json(value)) => response(StatusCode::OK, json::to_bytes(&value)),
            Ok(Reply::Text(text)) => response(StatusCode::OK, text),
            Ok(Reply::Pieces(pieces)) => {
                let body = axum::body::Body::from_stream(futures::stream::iter(pieces));
                response(StatusCode::OK, Bytes::new()).map(|_| Either::Right(body))
            }
            Err(error) => {
                // A body that was too slow is not waited for again.
                if error.status != 408 {
                    request::discard(&parts.headers, &mut incoming).await;
                }
                refusal(&error)
            }
        }
    }

    /// Ganeti's order: 404, 501, 401, 403, 415, 400. Who must authenticate and does not is told so first.
    async fn answer(
        &self,
        parts: &Parts,
        incoming: &mut Incoming,
        place: &mut Place,
    ) -> Result<Reply, HttpError> {
        if parts.version == Version::HTTP_11 && !parts.headers.contains_key(HOST) {
            return Err(HttpError::bad_request("Missing Host header"));
        }
        if self.require_authentication {
            credentials(parts)?.ok_or(HttpError::plain(401))?;
        }
        let path = request::path(parts).ok_or(HttpError::not_found())?;
        let found = route::find_in(&path, self.engine.compat()).ok_or(HttpError::not_found())?;
        let route = Method::parse(parts.method.as_str()).and_then(|method| found.method(method));
        let route = route.ok_or_else(|| unsupported(parts))?;
        *place = Place::Route(route);
        let user = self.admit(parts, route.access).await?;
        let body = request::body(&parts.headers, incoming, self.body_bytes, self.body_time).await?;
        let input = Input {
            method: route.method,
            path,
            path_vars: found.path_vars,
            target: request::target(parts),
            query: request::query(parts.uri.query()),
            body,
            user: user.map(|user| user.name),
            now_nanos: now_nanos(),
        };
        if route.waits { self.wait(route, input).await } else { self.work(route, input).await }
    }

    /// Answers a request that does something, when it is its turn.
    async fn work(&self, route: &'static Route, input: Input) -> Result<Reply, HttpError> {
        let _slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                let _queued = self.metrics.queued();
                self.slots.acquire().await.map_err(|_| HttpError::plain(503))?
            }
        };
        let _at_work = self.metrics.at_work();
        resources::answer(&self.engine, route, input).await
    }

    /// Answers a request that waits for something; when the server stops, that nothing happened.
    async fn wait(&self, route: &'static Route, input: Input) -> Result<Reply, HttpError> {
        let _waiting = self.metrics.waiting();
        let mut stop = self.stop.clone();
        tokio::select! {
            reply = resources::answer(&self.engine, route, input) => reply,
            _ = stop.wait_for(|stop| *stop) => Ok(Reply::Json(Value::Null)),
        }
    }

    /// Who sends the request, if they may. Ganeti: credentials that are sent are checked even where none are needed.
    async fn admit(&self, parts: &Parts, access: Access) -> Result<Option<User>, HttpError> {
        let Some(credentials) = credentials(parts)? else {
            let open = access == Access::Open && !self.require_authentication;
            return if open { Ok(None) } else { Err(HttpError::plain(401)) };
        };
        let user = self.users.check(&credentials).await.ok_or(HttpError::plain(401))?;
        let may = match access {
            Access::Open => true,
            Access::Read => user.read || user.write,
            Access::Write => user.write,
        };
        if may { Ok(Some(user)) } else { Err(HttpError::plain(403)) }
    }

    async fn call_extra(
        &self,
        parts: Parts,
        incoming: Incoming,
        user: Option<User>,
    ) -> Response<Body> {
        let body = axum::body::Body::new(Limited::new(incoming, self.body_bytes));
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(Caller(user));
        match self.extra.clone().oneshot(request).await {
            Ok(response) => response.map(Either::Right),
            Err(never) => match never {},
        }
    }
}

/// The line of a request in the log; HTTP/2 has the whole address in it, of which only the path says something.
fn access_line(parts: &Parts, peer: SocketAddr) -> String {
    let target = parts.uri.path_and_query().map_or("*", |target| target.as_str());
    format!("{peer} {} {target} {:?}", parts.method, parts.version)
}

/// What a path beside the API needs; `None` for those of the API.
fn extra_access(parts: &Parts) -> Option<Access> {
    match parts.uri.path() {
        "/metrics" | "/openapi.json" => Some(Access::Open),
        path if path.starts_with("/rapid/1/") => Some(match parts.method {
            http::Method::GET | http::Method::HEAD => Access::Read,
            _ => Access::Write,
        }),
        _ => None,
    }
}

fn credentials(parts: &Parts) -> Result<Option<Credentials>, HttpError> {
    let header = parts.headers.get(AUTHORIZATION);
    header.map(|header| Credentials::parse(header.as_bytes())).transpose()
}

fn unsupported(parts: &Parts) -> HttpError {
    let method = parts.method.as_str().to_uppercase();
    let target = request::target(parts);
    HttpError::new(501, format!("Method {method} is unsupported for path {target}"))
}

fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn refusal(error: &HttpError) -> Response<Body> {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = response(status, error.document().into());
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"Ganeti Remote API\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

fn response(status: StatusCode, text: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beside::BESIDE;

    #[test]
    fn what_is_beside_the_api_has_the_rights_of_its_table() {
        for row in BESIDE {
            let request = Request::builder().method(row.method.as_str()).uri("/rapid/1/x");
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert!(row.path.starts_with("/rapid/1/"), "{}", row.path);
            assert_eq!(extra_access(&parts), Some(row.access), "{}", row.path);
        }
    }
}
