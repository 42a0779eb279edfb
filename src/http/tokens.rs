//! `/api/v1/tokens`: the robots and their secrets. Only for who may do everything: whoever makes a token could give
//! themselves anything with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::api::{Ask, json};
use super::error::Failure;
use super::site::Front;
use crate::access::Grant;
use crate::access::robots::{Robot, RobotError, Table, Wanted};
use crate::oci::ErrorCode;
use crate::oci::operation::Action;
use crate::store::Document;
use crate::telemetry::timestamp;

/// How long a token lasts of which nothing else is said.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// The longest that can be said; for longer there is `never_expires`.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What a token is to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    name: String,
    scope: Vec<Scope>,
    /// In seconds.
    expires_in: Option<u64>,
    #[serde(default)]
    never_expires: bool,
}

/// What may be done where.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    may: Vec<String>,
    on: String,
}

#[derive(Serialize)]
struct Tokens<'a> {
    tokens: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    name: &'a str,
    scope: Vec<Scope>,
    created: String,
    created_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    expired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<String>,
    /// In the answer to who made it, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

/// `GET /api/v1/tokens`.
pub(super) async fn list(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, _) = Ask::of(Arc::clone(&front), request);
    let result = listed(&front, &ask).await;
    ask.respond(result)
}

/// `POST /api/v1/tokens`.
pub(super) async fn create(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, body) = Ask::of(Arc::clone(&front), request);
    let result = created(&front, &ask, body).await;
    ask.respond(result)
}

/// `DELETE /api/v1/tokens/{id}`.
pub(super) async fn revoke(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, _) = Ask::of(Arc::clone(&front), request);
    let result = revoked(&front, &ask).await;
    ask.respond(result)
}

async fn listed(front: &Front, ask: &Ask) -> Result<Response, Failure> {
    ask.allowed_everywhere(Action::Admin).await?;
    there_are_tokens(ask)?;
    let now = SystemTime::now();
    let table = front.robots.table();
    let robots = table.robots();
    let tokens = robots.iter().map(|robot| told(robot, None, now)).collect();
    Ok(json(
        StatusCode::OK,
        serde_json::to_vec(&Tokens { tokens }).unwrap_or_default(),
    ))
}

async fn created(front: &Front, ask: &Ask, body: Body) -> Result<Response, Failure> {
    let caller = ask.allowed_everywhere(Action::Admin).await?;
    there_are_tokens(ask)?;
    let asked: TokenRequest = ask.read(body).await?;
    let now = SystemTime::now();
    let wanted = asked.wanted(caller.identity.to_string(), now)?;
    let _turn = front.robots.turn().await;
    let (table, robot, secret) = front.robots.table().with(wanted, now)?;
    ask.about(&robot.name);
    keep(front, table).await?;
    tracing::info!(request_id = %ask.id(), robot = %robot.name, id = robot.id, by = robot.created_by, "a token was made");
    let answer = told(&robot, Some(secret.reveal()), now);
    Ok(json(
        StatusCode::CREATED,
        serde_json::to_vec(&answer).unwrap_or_default(),
    ))
}

async fn revoked(front: &Front, ask: &Ask) -> Result<Response, Failure> {
    let caller = ask.allowed_everywhere(Action::Admin).await?;
    there_are_tokens(ask)?;
    let which = ask.last_segment();
    let _turn = front.robots.turn().await;
    let table = front.robots.table();
    let found = table.get(which).or_else(|| table.called(which));
    let Some((table, robot)) = found.and_then(|robot| table.without(&robot.id)) else {
        let message = "there is no such token: `entrepot token list` shows those that there are";
        return Err(Failure::new(ErrorCode::NameUnknown, message));
    };
    ask.about(&robot.name);
    keep(front, table).await?;
    tracing::info!(request_id = %ask.id(), robot = %robot.name, id = robot.id, by = %caller.identity, "a token was revoked");
    let answer = told(&robot, None, SystemTime::now());
    Ok(json(StatusCode::OK, serde_json::to_vec(&answer).unwrap_or_default()))
}

/// From now on the robots are these; durably, before anybody is told.
async fn keep(front: &Front, table: Table) -> Result<(), Failure> {
    front
        .store
        .write_document(Document::Robots, table.to_document())
        .await?;
    front.robots.replace(table);
    Ok(())
}

fn there_are_tokens(ask: &Ask) -> Result<(), Failure> {
    if ask.site().access.has_robots() {
        return Ok(());
    }
    let message = "there are no tokens here: `auth: { tokens: true }` in the configuration turns them on";
    Err(Failure::new(ErrorCode::Unsupported, message).with_status(StatusCode::BAD_REQUEST))
}

impl TokenRequest {
    fn wanted(self, created_by: String, now: SystemTime) -> Result<Wanted, Failure> {
        let expires = match (self.expires_in, self.never_expires) {
            (Some(_), true) => return Err(wrong("either `expires_in` or `never_expires`, not both")),
            (None, true) => None,
            (None, false) => Some(now + LIFETIME),
            (Some(seconds), false) if seconds <= LONGEST.as_secs() => Some(now + Duration::from_secs(seconds)),
            (Some(_), false) => {
                return Err(wrong(
                    "`expires_in` is at most ten years, in seconds; or say `never_expires`",
                ));
            }
        };
        let scope: Result<_, _> = self.scope.into_iter().map(Scope::grant).collect();
        Ok(Wanted {
            name: self.name,
            scope: scope?,
            expires,
            created_by,
        })
    }
}

impl Scope {
    fn of(grant: &Grant) -> Self {
        Self {
            may: grant.may.iter().map(|action| action.as_str().to_owned()).collect(),
            on: grant.on.as_str().to_owned(),
        }
    }

    fn grant(self) -> Result<Grant, Failure> {
        let action = |word: &String| {
            Action::named(word).ok_or_else(|| wrong("`may` has `pull`, `push`, `delete` or `admin` in it"))
        };
        Ok(Grant {
            may: self.may.iter().map(action).collect::<Result<_, _>>()?,
            on: self
                .on
                .parse()
                .map_err(|error| wrong(format!("`on` is a pattern over `repository/image`: {error}")))?,
        })
    }
}

fn told<'a>(robot: &'a Robot, token: Option<&'a str>, now: SystemTime) -> Entry<'a> {
    Entry {
        id: &robot.id,
        name: &robot.name,
        scope: robot.scope.iter().map(Scope::of).collect(),
        created: timestamp::of(robot.created),
        created_by: &robot.created_by,
        expires: robot.expires.map(timestamp::of),
        expired: !robot.is_alive(now),
        last_used: robot.last_used().map(timestamp::of),
        token,
    }
}

fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::NameInvalid, message)
}

impl From<RobotError> for Failure {
    fn from(error: RobotError) -> Self {
        let failure = wrong(error.to_string());
        match error {
            RobotError::Taken(_) => failure.with_status(StatusCode::CONFLICT),
            RobotError::Random => Self::new(ErrorCode::Internal, error.to_string()),
            _ => failure,
        }
    }
}
