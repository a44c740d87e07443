//! What is served beside Ganeti's API: numbers for monitoring, the API's description, and what LUXI can do and the remote API
//! cannot (closing the queue, archiving, priorities, screens), under `/rapid/1/`. What they are for is in `rapi::beside`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json};
use model::engine::{Engine, Screenshot};
use model::error::GanetiError;
use model::name::JobId;
use rapi::metrics::Metrics;
use rapi::serve::Caller;
use serde::Deserialize;
use serde_json::{Value, json};

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    engine: Arc<dyn Engine>,
    metrics: Arc<Metrics>,
}

/// The routes.
pub(crate) fn router(engine: Arc<dyn Engine>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/openapi.json", get(show_openapi))
        .route("/rapid/1/about", get(about))
        .route("/rapid/1/queue/drain", put(drain).delete(undrain).get(is_drained))
        .route("/rapid/1/jobs/archive", post(auto_archive))
        .route("/rapid/1/jobs/{id}/archive", post(archive))
        .route("/rapid/1/jobs/{id}/priority", put(priority))
        .route("/rapid/1/instances/{name}/screenshot", get(screenshot))
        .with_state(Shared { engine, metrics })
}

async fn show_metrics(State(shared): State<Shared>) -> Response {
    let text = crate::metrics::render(&shared.engine.gauges().await, &shared.metrics.snapshot());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn show_openapi() -> Json<Value> {
    Json(rapi::openapi::document())
}

async fn about(State(shared): State<Shared>, caller: Option<Extension<Caller>>) -> Json<Value> {
    let user = caller.and_then(|Extension(Caller(user))| user).map(|user| user.name);
    Json(json!({
        "name": "rapid",
        "version": env!("CARGO_PKG_VERSION"),
        "ganeti_version": shared.engine.compat().software_version(),
        "user": user,
    }))
}

/// An error in Ganeti's form.
fn refuse(status: StatusCode, message: &str) -> Response {
    let explain = status.canonical_reason().unwrap_or_default();
    (status, Json(json!({"code": status.as_u16(), "message": message, "explain": explain})))
        .into_response()
}

fn answer<T: serde::Serialize>(result: Result<T, GanetiError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let error = rapi::error::HttpError::from(error);
            let status =
                StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            refuse(status, error.message.as_deref().unwrap_or_default())
        }
    }
}

/// As for the console, an instance that does not run is answered 503.
async fn screenshot(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    match shared.engine.screenshot(&name).await {
        Ok(Screenshot::Png(png)) => {
            let headers =
                [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")];
            (headers, png).into_response()
        }
        Ok(Screenshot::Unknown) => {
            refuse(StatusCode::NOT_FOUND, &format!("Instance {name} is not known"))
        }
        Ok(Screenshot::NotRunning) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, "Instance screen unavailable")
        }
        Ok(Screenshot::Unsupported(why)) => refuse(StatusCode::NOT_IMPLEMENTED, &why),
        Err(error) => answer(Err::<(), _>(error)),
    }
}

async fn drain(State(shared): State<Shared>) -> Response {
    answer(shared.engine.set_drain_flag(true).await.map(|()| true))
}

async fn undrain(State(shared): State<Shared>) -> Response {
    answer(shared.engine.set_drain_flag(false).await.map(|()| false))
}

async fn is_drained(State(shared): State<Shared>) -> Response {
    let values = shared.engine.query_config_values(&["drain_flag"]).await;
    answer(values.map(|values| values.into_iter().next().unwrap_or_default()))
}

async fn archive(State(shared): State<Shared>, Path(id): Path<u64>) -> Response {
    answer(shared.engine.archive_job(JobId(id)).await)
}

/// `?age=SECONDS`: jobs that ended longer ago; all that ended without it.
#[derive(Deserialize)]
struct Age {
    age: Option<u64>,
}

async fn auto_archive(State(shared): State<Shared>, Query(Age { age }): Query<Age>) -> Response {
    let limit = Duration::from_secs(10);
    let done = shared.engine.auto_archive_jobs(age.map(Duration::from_secs), limit).await;
    answer(done.map(|(archived, left)| json!({"archived": archived, "left": left})))
}

async fn priority(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
    Json(body): Json<Value>,
) -> Response {
    match body.as_i64() {
        Some(priority) => {
            let done = shared.engine.change_job_priority(JobId(id), priority).await;
            answer(done.map(|(done, text)| json!([done, text])))
        }
        None => refuse(StatusCode::BAD_REQUEST, "the body must be a number from -20 to 19"),
    }
}
