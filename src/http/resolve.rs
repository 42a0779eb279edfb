//! `GET /api/v1/resolve`: what a name means, and why: a pull or push as far as that it is known what would come of it, by the same way.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::api::{Ask, json as answered};
use super::error::Failure;
use super::gate::{Caller, Gate, Judgements};
use super::image_text::ImageText;
use super::site::Front;
use crate::access::{Access, Identity};
use crate::clock;
use crate::oci::operation::Action;
use crate::oci::{ErrorCode, ImageName, Reference, RepositoryKey};
use crate::repository::trace::Told;
use crate::repository::{Route, Served};

/// What is asked.
#[derive(Default)]
struct Question {
    image: Option<String>,
    push: bool,
    user: Option<String>,
    groups: BTreeSet<String>,
}

/// `GET /api/v1/resolve?image=…`.
pub(super) async fn resolve(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, _) = Ask::of(Arc::clone(&front), request);
    let result = resolved(&front, &ask).await;
    ask.respond(result)
}

async fn resolved(front: &Front, ask: &Ask) -> Result<Response, Failure> {
    let caller = ask.caller().await?;
    let question = Question::read(ask.query())?;
    let Some(image) = &question.image else {
        return Err(wrong("`?image=` says which, as in `docker.io/library/alpine:3.20`"));
    };
    let admin = ask.gate(&caller).everywhere(Action::Admin);
    let is_admin = admin.is_ok();
    let judged = Judgements::default();
    let named = ask.named(image)?;
    let (asked, note) = match &question.user {
        Some(user) => {
            // What somebody else may is for those who may do everything.
            admin?;
            let (identity, note) = pretended(front, ask, user, question.groups.clone())?;
            let by_token = false;
            (Caller { identity, by_token }, note)
        }
        None => (caller, None),
    };
    let gate = Gate {
        judged: Some(&judged),
        ..ask.gate_to(&asked, &named)
    };
    let told = if question.push {
        push(&gate, &named).await
    } else {
        pull(&gate, &named).await
    };
    // Whoever may not is told so as ever, unless somebody asks on their behalf.
    let mut document = match told {
        Err(failure) if question.user.is_none() && matches!(failure.status(), 401 | 403) => return Err(failure),
        Err(failure) => json!({ "refused": refused(&failure) }),
        Ok(document) => document,
    };
    document["as"] = json!(asked.identity.to_string());
    if let Some(note) = note {
        document["note"] = json!(note);
    }
    let policies = &ask.site().access.policies;
    if is_admin {
        let all = judged.all();
        let verdicts = all.iter().map(|judgement| {
            json!({
                "name": format!("{}/{}", judgement.repository, judgement.image),
                "action": judgement.action.as_str(),
                "allowed": judgement.ground.is_some(),
                "by": judgement.ground.map(|ground| policies.describe(ground)),
            })
        });
        document["verdicts"] = verdicts.collect();
        document["who_may"] = who_may(&gate, &named.name, question.push);
    }
    Ok(answered(StatusCode::OK, document.to_string().into_bytes()))
}

/// What a pull would be answered.
async fn pull(gate: &Gate<'_>, named: &ImageText) -> Result<Value, Failure> {
    let Route {
        repository,
        image,
        by_namespace: _,
    } = gate.route(&named.name, Action::Pull)?;
    let explained = repository.explain(&image, &named.reference).await;
    let mut document = place(repository.key(), &image, &named.reference);
    // Of what is hidden from somebody, what the rest of the search looked like would tell.
    if gate.hides(&named.name) {
        document["members"] = Value::Null;
    } else {
        document["members"] = explained.told.iter().map(member).collect();
    }
    let failure = match explained.answer {
        Ok(Some(served)) => {
            document["answer"] = answer(&served);
            return Ok(document);
        }
        Ok(None) => {
            let message = format!("`{}` has no manifest {} of {image}", repository.key(), named.reference);
            gate.not_found(Failure::new(ErrorCode::ManifestUnknown, message), &named.name)
        }
        Err(error) => error.into(),
    };
    if failure.wants_login() {
        return Err(failure);
    }
    document["refused"] = refused(&failure);
    Ok(document)
}

/// Where a push would land.
async fn push(gate: &Gate<'_>, named: &ImageText) -> Result<Value, Failure> {
    let target = gate.target(&named.name, Action::Push)?;
    let key = target.repository.key();
    let mut document = place(key, &target.image, &named.reference);
    if let Reference::Tag(tag) = &named.reference
        && let Err(error) = target.repository.check_tag(&target.image, tag).await
    {
        document["refused"] = refused(&error.into());
        return Ok(document);
    }
    document["push_to"] = json!({ "repository": key.as_str(), "image": target.image.as_str() });
    Ok(document)
}

fn place(repository: &RepositoryKey, image: &ImageName, reference: &Reference) -> Value {
    json!({
        "repository": repository.as_str(),
        "image": image.as_str(),
        "reference": reference.to_string(),
    })
}

fn answer(served: &Served<crate::oci::Manifest>) -> Value {
    json!({
        "repository": served.by.as_str(),
        "digest": served.value.digest.as_str(),
        "media_type": served.value.media_type.as_str(),
        "size": served.value.size(),
        "cache": served.outcome.as_str(),
        "age": served.age.as_secs(),
        "warning": served.warning,
    })
}

fn member(told: &Told) -> Value {
    let mut places = told.places.iter();
    let url = places.next_back();
    json!({
        "repository": told.repository.as_str(),
        "type": told.kind,
        "through": told.through.as_ref().map(RepositoryKey::as_str),
        "verdict": told.verdict.as_str(),
        "why": told.why,
        "url": url.map(ToString::to_string),
        "mirrors": places.map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn refused(failure: &Failure) -> Value {
    json!({ "status": failure.status(), "code": failure.code(), "message": failure.message() })
}

/// By every name that leads there, what in the configuration allows it, whoever asks.
fn who_may(gate: &Gate<'_>, name: &ImageName, push: bool) -> Value {
    let action = if push { Action::Push } else { Action::Pull };
    let policies = &gate.site.access.policies;
    let names = gate.names(name, action).into_iter();
    let told = names.map(|(repository, image)| {
        let grounds = policies.grounds(action, &repository, &image);
        let by: Vec<String> = grounds.into_iter().map(|ground| policies.describe(ground)).collect();
        json!({ "name": format!("{repository}/{image}"), "action": action.as_str(), "by": by })
    });
    told.collect()
}

/// Somebody who does not ask themselves, and what is not known of them.
fn pretended(
    front: &Front,
    ask: &Ask,
    user: &str,
    groups: BTreeSet<String>,
) -> Result<(Identity, Option<String>), Failure> {
    let access = &ask.site().access;
    if user == "anonymous" {
        return Ok((Identity::Anonymous, None));
    }
    if let Some(name) = user.strip_prefix("robot:") {
        let now = clock::told(clock::now());
        let table = front.robots.table();
        let robot = table.called(name).filter(|robot| robot.is_alive(now));
        let robot = robot.map(|robot| robot.principal());
        let robot = robot.filter(|_| access.has_robots());
        return match robot {
            Some(robot) => Ok((Identity::Known(Arc::new(robot)), None)),
            None => Err(wrong(&format!(
                "no token `{name}` is valid: `entrepot token list` shows those that there are"
            ))),
        };
    }
    let user = user.strip_prefix("user:").unwrap_or(user);
    let is_known = access.has_password(user);
    let note = (!is_known).then(|| {
        format!(
            "`{user}` is not in the password file; groups that somebody else would vouch for count only as given with `group`"
        )
    });
    Ok((Access::as_user(user, groups), note))
}

impl Question {
    fn read(query: &str) -> Result<Self, Failure> {
        let mut question = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match (&*key, &*value) {
                ("image", _) => question.image = Some(value.into_owned()),
                ("push", "true") => question.push = true,
                ("push", "false") => question.push = false,
                ("push", _) => return Err(wrong("`push` is `true` or `false`")),
                ("as", "") => return Err(wrong("`as` names a user, `robot:NAME`, or `anonymous`")),
                ("as", _) => question.user = Some(value.into_owned()),
                ("group", _) => {
                    question.groups.insert(value.into_owned());
                }
                _ => {
                    return Err(wrong(
                        "this takes `image`, `push`, `as` and `group`; /api/v1/openapi.json says what they mean",
                    ));
                }
            }
        }
        if question.user.is_none() && !question.groups.is_empty() {
            return Err(wrong("`group` is of somebody else: say who, with `as`"));
        }
        Ok(question)
    }
}

fn wrong(message: &str) -> Failure {
    Failure::new(ErrorCode::NameInvalid, message)
}
