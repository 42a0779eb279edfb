//! Where AWS's keys come from, in AWS's order.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entrepot::config::{Environment, Login, Provider, RemoteConfig};
use entrepot::upstream::Error;

use super::ecr::{HOST, ID, SECRET, is_signed, manifest, upstream};
use crate::support::cloud::{Asked, Cloud, Says};
use crate::support::proxy::Proxy;

const CONTAINER_TOKEN: &str = "canary-of-a-container";
const IDENTITY: &str = "canary-of-an-identity";

/// Everything of AWS's that is not the registry, at one address: the API, STS, a container's agent and the metadata
/// service.
fn cloud() -> impl FnMut(&Asked) -> Says + Send + 'static {
    |asked| {
        let json = |id: &str| {
            let body = format!(
                r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"{SECRET}","Token":"{id}-session","Expiration":"2099-01-01T00:00:00Z"}}"#
            );
            Says::This(200, body)
        };
        let xml = |action: &str, id: &str| {
            let body = format!(
                "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
                 <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>\
                 <SessionToken>{id}-session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
                 </{action}Result></{action}Response>"
            );
            Says::This(200, body)
        };
        let session = asked.header("x-aws-ec2-metadata-token");
        match (asked.method.as_str(), asked.target.as_str()) {
            ("PUT", "/latest/api/token") => {
                assert_eq!(asked.header("x-aws-ec2-metadata-token-ttl-seconds"), "21600");
                Says::This(200, "a-session".to_owned())
            }
            ("GET", "/latest/meta-data/iam/security-credentials/") if session == "a-session" => {
                Says::This(200, "a-role\n".to_owned())
            }
            ("GET", "/latest/meta-data/iam/security-credentials/a-role") if session == "a-session" => {
                json("ID-OF-INSTANCE")
            }
            ("GET", "/agent") if asked.header("authorization") == CONTAINER_TOKEN => json("ID-OF-CONTAINER"),
            ("POST", "/") if asked.body.contains("Action=AssumeRoleWithWebIdentity&") => {
                assert_eq!(asked.header("authorization"), "");
                assert!(
                    asked.body.contains(&format!("WebIdentityToken={IDENTITY}")),
                    "{}",
                    asked.body
                );
                assert!(
                    asked.body.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fweb"),
                    "{}",
                    asked.body
                );
                xml("AssumeRoleWithWebIdentity", "ID-OF-WEB")
            }
            ("POST", "/") if asked.body.contains("Action=AssumeRole&") => {
                assert!(is_signed(asked, ("eu-west-1", "sts"), SECRET));
                assert!(asked.body.contains("RoleSessionName=entrepot"), "{}", asked.body);
                xml("AssumeRole", "ID-OF-ROLE")
            }
            // The API: nobody gets a token here, who asks is remembered.
            ("POST", "/") => Says::This(400, r#"{"__type":"Seen"}"#.to_owned()),
            _ => Says::This(401, String::new()),
        }
    }
}

/// Who the API was asked by, or why it was not.
async fn asked_by(cloud: &Cloud, variables: &[(&str, &str)], files: &Path) -> Result<String, String> {
    let url = cloud.url();
    let config_file = files.join("config").to_string_lossy().into_owned();
    let credentials_file = files.join("credentials").to_string_lossy().into_owned();
    let general = [
        ("AWS_ENDPOINT_URL", url.as_str()),
        ("AWS_CONFIG_FILE", config_file.as_str()),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials_file.as_str()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str()),
    ];
    let environment: Environment = general.iter().chain(variables).copied().collect();
    let mut config = RemoteConfig::of(format!("https://{HOST}").parse().unwrap());
    config.first_byte_timeout = Duration::from_secs(5);
    config.credentials = vec![Login::Provided(Provider::Ecr, environment)];
    // The registry itself is not there: what lets us in is asked for first only if it wants Basic, so it says so.
    let registry = crate::support::upstream::Server::start().await;
    registry.demand_basic("AWS", "nobody");
    let (proxy, authority) = (Proxy::start().await, crate::support::tls::Authority::new());
    let front = authority
        .front(&registry, HOST, crate::support::tls::Wants::Nothing)
        .await;
    proxy.knows(&format!("{HOST}:443"), &format!("127.0.0.1:{}", front.port));
    proxy.takes_others_to(&cloud.host());
    config.proxy = Some(proxy.config(None));
    config.ca = Some(authority.pem());

    let before = cloud.asked().len();
    let error = manifest(&upstream(&config).unwrap(), "a").await.unwrap_err();
    let text = error.to_string();
    for canary in [SECRET, CONTAINER_TOKEN, IDENTITY, "-session"] {
        assert!(!format!("{text} {error:?}").contains(canary), "{text}");
    }
    for head in proxy.asked() {
        assert!(
            !head.contains("/latest/") && !head.contains("/agent"),
            "never through a proxy: {head}"
        );
    }
    let last = cloud.asked().split_off(before).pop();
    if let Some(asked) = last.filter(|asked| !asked.header("x-amz-target").is_empty()) {
        assert!(is_signed(&asked, ("eu-west-1", "ecr"), SECRET));
        let (_, rest) = asked.header("authorization").split_once("Credential=").unwrap();
        let id = rest.split('/').next().unwrap().to_owned();
        let token = asked.header("x-amz-security-token");
        assert!(token.is_empty() || token == format!("{id}-session"), "{token}");
        return Ok(id);
    }
    assert!(matches!(error, Error::Credentials(_)), "{error:?}");
    Err(text)
}

#[tokio::test]
async fn keys_come_from_where_awss_own_tools_take_them_in_their_order() {
    let cloud = Cloud::start(cloud()).await;
    let files = tempfile::tempdir().unwrap();
    let identity = files.path().join("identity");
    let container = files.path().join("container");
    std::fs::write(&identity, format!("{IDENTITY}\n")).unwrap();
    std::fs::write(&container, format!("{CONTAINER_TOKEN}\n")).unwrap();
    let (identity, container) = (identity.to_str().unwrap(), container.to_str().unwrap());
    let agent = format!("{}/agent", cloud.url());

    let machine: Vec<(&str, &str)> = Vec::new();
    assert_eq!(
        asked_by(&cloud, &machine, files.path()).await.as_deref(),
        Ok("ID-OF-INSTANCE")
    );

    let mut all = vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", container),
    ];
    assert_eq!(
        asked_by(&cloud, &all, files.path()).await.as_deref(),
        Ok("ID-OF-CONTAINER")
    );

    let credentials = format!("# ours\n[default]\naws_access_key_id = ID-OF-PROFILE\naws_secret_access_key={SECRET}\n");
    std::fs::write(files.path().join("credentials"), credentials).unwrap();
    assert_eq!(
        asked_by(&cloud, &all, files.path()).await.as_deref(),
        Ok("ID-OF-PROFILE")
    );

    all.push(("AWS_ROLE_ARN", "arn:aws:iam::1:role/web"));
    all.push(("AWS_WEB_IDENTITY_TOKEN_FILE", identity));
    assert_eq!(asked_by(&cloud, &all, files.path()).await.as_deref(), Ok("ID-OF-WEB"));

    all.push(("AWS_ACCESS_KEY_ID", ID));
    all.push(("AWS_SECRET_ACCESS_KEY", SECRET));
    assert_eq!(asked_by(&cloud, &all, files.path()).await.as_deref(), Ok(ID));
}

#[tokio::test]
async fn profiles_may_take_roles_and_those_that_need_a_person_are_named() {
    let cloud = Cloud::start(cloud()).await;
    let files = tempfile::tempdir().unwrap();
    let identity = files.path().join("identity");
    std::fs::write(&identity, IDENTITY).unwrap();
    let config = format!(
        "[profile taker]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = giver\n\
         s3 =\n    role_arn = not this one\n\
         [profile machine]\nrole_arn = arn:aws:iam::1:role/x\ncredential_source = Ec2InstanceMetadata\n\
         [profile web]\nrole_arn = arn:aws:iam::1:role/web\nweb_identity_token_file = {}\n\
         [profile round]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = about\n\
         [profile about]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = round\n\
         [profile person]\nsso_session = me\n\
         [profile program]\ncredential_process = /bin/cat /etc/shadow\n\
         [profile half]\nrole_arn = arn:aws:iam::1:role/x\n\
         [profile one]\naws_access_key_id = ID-ALONE\n\
         [sso-session me]\nsso_region = eu-west-1\n",
        identity.display()
    );
    std::fs::write(files.path().join("config"), config).unwrap();
    let credentials = format!("[giver]\n  aws_access_key_id = ID-OF-GIVER\n  aws_secret_access_key = {SECRET}\n");
    std::fs::write(files.path().join("credentials"), credentials).unwrap();
    for (profile, expected) in [
        ("giver", Ok("ID-OF-GIVER")),
        ("taker", Ok("ID-OF-ROLE")),
        ("machine", Ok("ID-OF-ROLE")),
        ("web", Ok("ID-OF-WEB")),
        ("round", Err("has itself for a source")),
        ("person", Err("has `sso_session`, which is not for a server")),
        ("program", Err("has `credential_process`, which is not for a server")),
        ("half", Err("has a `role_arn`, but no")),
        (
            "one",
            Err("has one of `aws_access_key_id` and `aws_secret_access_key`, and not the other"),
        ),
        ("nobody", Err("there is no profile `nobody`")),
    ] {
        let found = asked_by(&cloud, &[("AWS_PROFILE", profile)], files.path()).await;
        match expected {
            Ok(id) => assert_eq!(found.as_deref(), Ok(id), "{profile}"),
            Err(why) => assert!(
                found.as_ref().is_err_and(|text| text.contains(why)),
                "{profile}: {found:?}"
            ),
        }
    }
}

#[tokio::test]
async fn what_is_set_but_wrong_is_told_and_nobody_else_is_asked_instead() {
    let cloud = Cloud::start(cloud()).await;
    let files = tempfile::tempdir().unwrap();
    let rows: [(&[(&str, &str)], &str); 9] = [
        (&[("AWS_ACCESS_KEY_ID", "x")], "AWS_SECRET_ACCESS_KEY is not"),
        (
            &[("AWS_ACCESS_KEY_ID", "a b"), ("AWS_SECRET_ACCESS_KEY", SECRET)],
            "is no key",
        ),
        (&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere")], "AWS_ROLE_ARN is not"),
        (
            &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere"), ("AWS_ROLE_ARN", "arn")],
            "/nowhere is not there",
        ),
        // A token is shown to the machine's own agent, or over TLS.
        (
            &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://198.51.100.7/agent")],
            "nor one of this machine",
        ),
        (
            &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1.evil.org/agent")],
            "nor one of this machine",
        ),
        (
            &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@evil.org/")],
            "is no path",
        ),
        (&[("AWS_EC2_METADATA_DISABLED", "true")], "there are no AWS keys"),
        (
            &[
                ("AWS_ACCESS_KEY_ID", ID),
                ("AWS_SECRET_ACCESS_KEY", SECRET),
                ("AWS_ENDPOINT_URL_ECR", "ftp://x"),
            ],
            "AWS_ENDPOINT_URL_ECR is not the root of a web address",
        ),
    ];
    for (variables, expected) in rows {
        let found = asked_by(&cloud, variables, files.path()).await;
        let text = found.expect_err("nobody is asked");
        assert!(text.contains(expected), "{variables:?}: {text}");
    }
    assert!(cloud.asked().is_empty(), "{:?}", cloud.asked());
}

#[tokio::test]
async fn a_metadata_service_that_misbehaves_gives_no_keys() {
    let files = tempfile::tempdir().unwrap();
    let step = Arc::new(Mutex::new(0));
    for (what, expected) in [
        ("no token", "answers 403"),
        ("no role", "the instance has no role"),
        ("a path for a role", "names no role"),
        ("no keys", "gives no keys: 200 (AssumeRoleUnauthorizedAccess)"),
        ("junk", "gives no keys"),
    ] {
        let count = Arc::clone(&step);
        *count.lock().unwrap() = 0;
        let cloud = Cloud::start(move |_| {
            let mut step = count.lock().unwrap();
            *step += 1;
            let (status, body) = match (what, *step) {
                ("no token", 1) => (403, ""),
                (_, 1) => (200, "a-session"),
                ("no role", 2) => (404, "<html>"),
                ("a path for a role", 2) => (200, "../../user-data"),
                (_, 2) => (200, "a-role"),
                ("no keys", 3) => (
                    200,
                    r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"canary-of-a-message"}"#,
                ),
                _ => (200, "canary-of-a-message"),
            };
            Says::This(status, body.to_owned())
        })
        .await;
        let text = asked_by(&cloud, &[], files.path()).await.expect_err(what);
        assert!(text.contains(expected), "{what}: {text}");
        assert!(!text.contains("canary-of-a-message"), "{text}");
    }
}
