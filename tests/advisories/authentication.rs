//! Who somebody is: tokens, passwords, and headers that claim it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::StatusCode;

use crate::binary::{entrepot, header, temporary};
use crate::people::{ADA, EVE, Secured, line, told, until_answered};

const PRIVATE: &str = "/v2/private/app/manifests/v1";

/// distribution took the key from the token's own header.
#[tokio::test]
async fn cve_2025_24976_a_token_does_not_say_how_it_is_to_be_believed() {
    let secured = Secured::start().await;
    let token = secured.token(ADA).await;
    assert_eq!(secured.bearer(PRIVATE, &token).await.status(), StatusCode::OK);
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, signature] = parts[..] else {
        panic!("{} parts", parts.len())
    };
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let own = r#"{"kty":"oct","k":"c2VjcmV0"}"#;
    let heads = [
        r#"{"alg":"none","typ":"JWT"}"#.to_owned(),
        r#"{"alg":"None"}"#.to_owned(),
        r#"{"alg":"HS512","typ":"JWT"}"#.to_owned(),
        r#"{"alg":"RS256","typ":"JWT"}"#.to_owned(),
        format!(r#"{{"alg":"HS256","typ":"JWT","jwk":{own}}}"#),
        r#"{"alg":"HS256","typ":"JWT","jku":"http://127.0.0.1:1/keys"}"#.to_owned(),
        r#"{"alg":"HS256","typ":"JWT","x5c":["MIIB"]}"#.to_owned(),
        r#"{"alg":"HS256","typ":"JWT","kid":"../../../../dev/null"}"#.to_owned(),
    ];
    let mut forged: Vec<String> = heads
        .iter()
        .map(|text| format!("{}.{claims}.{signature}", encode(text)))
        .collect();
    forged.extend(heads.iter().map(|text| format!("{}.{claims}.", encode(text))));
    let said = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    for (from, to) in [("ada", "bob"), ("\"exp\":", "\"exp\":9"), ("user", "robot")] {
        assert!(said.contains(from), "{said}");
        forged.push(format!("{head}.{}.{signature}", encode(&said.replace(from, to))));
    }
    forged.extend([
        format!("{head}.{claims}"),
        format!("{head}.{claims}.{signature}x"),
        format!("{head}.{claims}.{}", &signature[1..]),
        format!("{token}.x"),
        "..".to_owned(),
        "a.b.c".to_owned(),
    ]);
    for token in &forged {
        let response = secured.bearer(PRIVATE, token).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{token}");
        assert!(
            header(&response, "www-authenticate").contains("invalid_token"),
            "{token}"
        );
    }
    assert_eq!(secured.bearer(PRIVATE, &token).await.status(), StatusCode::OK);
}

/// Harbor crashed on claims that are missing; others took them for good.
#[tokio::test]
async fn harbor_23270_claims_that_are_missing_or_too_large_let_nobody_in() {
    let secured = Secured::start().await;
    let token = secured.token(ADA).await;
    let parts: Vec<&str> = token.split('.').collect();
    for claims in [
        "{}",
        "[]",
        "null",
        r#"{"exp":1e400}"#,
        r#"{"exp":18446744073709551616}"#,
        r#"{"exp":-1,"iat":-1}"#,
        r#"{"sub":"ada","exp":18446744073709551615,"iat":18446744073709551615}"#,
        "",
    ] {
        let forged = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims), parts[2]);
        assert_eq!(
            secured.bearer(PRIVATE, &forged).await.status(),
            StatusCode::UNAUTHORIZED,
            "{claims}"
        );
    }
    assert_eq!(
        secured.bearer(PRIVATE, &token).await.status(),
        StatusCode::OK,
        "it lives"
    );
}

/// Gitea and Harbor answered users that exist otherwise than those that do not.
#[tokio::test]
async fn cve_2025_69413_who_does_not_exist_is_answered_as_who_does() {
    let secured = Secured::start().await;
    let same = ["ada", "adam"];
    for path in ["/token", "/v2/", PRIVATE] {
        let known = told(secured.ask("GET", path, Some(("ada", "wrong"))).await, &same[..1]).await;
        let unknown = told(secured.ask("GET", path, Some(("adam", "wrong"))).await, &same[1..]).await;
        assert_eq!(known, unknown, "{path}");
        assert!(known.starts_with("401"), "{known}");
    }
}

/// Harbor came with a password.
#[tokio::test]
async fn cve_2026_4404_there_is_no_password_that_we_come_with() {
    let secured = Secured::start().await;
    for (user, password) in [
        ("admin", "Harbor12345"),
        ("admin", "admin"),
        ("root", ""),
        ("ada", ""),
        ("", "admin"),
    ] {
        let response = secured.ask("GET", PRIVATE, Some((user, password))).await;
        // Who guesses is made to wait.
        let status = response.status();
        assert!(
            status == StatusCode::UNAUTHORIZED || status == StatusCode::TOO_MANY_REQUESTS,
            "{user}: {status}"
        );
    }
    // Without users it is not open to other machines, either.
    let directory = temporary();
    let file = directory.path().join("repositories.yml");
    std::fs::write(
        &file,
        "server: { listen: '0.0.0.0:0' }\nrepositories: { a: { type: local } }\n",
    )
    .unwrap();
    let output = entrepot(&["check", "-c"]).arg(&file).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
}

/// Harbor let a token of before into a project that had been made anew.
#[tokio::test]
async fn harbor_22900_a_token_ends_with_what_proved_it() {
    let secured = Secured::start().await;
    let path = "/v2/team/app/manifests/v1";
    let token = secured.token(EVE).await;
    assert_eq!(secured.bearer(path, &token).await.status(), StatusCode::OK);
    // The same name for somebody else.
    let file = secured.registry.directory.path().join("htpasswd");
    let users = std::fs::read_to_string(&file).unwrap();
    let before = users.lines().find(|line| line.starts_with("eve:")).unwrap();
    secured.change("htpasswd", &format!("{before}\n"), &line("eve", "another"));
    until_answered(&secured, path, &token, StatusCode::UNAUTHORIZED).await;
    assert_eq!(
        secured.ask("GET", path, Some(("eve", "another"))).await.status(),
        StatusCode::OK
    );
    assert_eq!(
        secured.ask("GET", path, Some(EVE)).await.status(),
        StatusCode::UNAUTHORIZED
    );
}

/// Gitea believed whoever sent a proxy's headers.
#[tokio::test]
async fn cve_2026_20896_nobody_is_who_a_header_says_they_are() {
    let secured = Secured::start().await;
    for (name, value) in [
        ("x-webauth-user", "ada"),
        ("x-forwarded-user", "ada"),
        ("x-remote-user", "ada"),
        ("remote-user", "ada"),
        ("x-forwarded-client-cert", "Subject=\"CN=ada\""),
        ("x-ssl-client-s-dn", "CN=ada"),
        ("x-forwarded-for", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1;host=evil.example;proto=https"),
        ("x-forwarded-host", "evil.example"),
    ] {
        let request = secured.request("GET", PRIVATE).header(name, value);
        let response = secured.send(request, None).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{name}");
        let challenge = header(&response, "www-authenticate");
        assert!(challenge.contains(secured.registry.address()), "{name}: {challenge}");
        assert!(!challenge.contains("evil"), "{name}: {challenge}");
    }
}

/// Harbor's pages could be used by other pages with their visitor's login. Nothing here is done for a browser's habit.
#[tokio::test]
async fn cve_2019_19025_another_page_cannot_use_a_visitors_login() {
    let secured = Secured::start().await;
    let response = secured.ask("GET", PRIVATE, None).await;
    let challenges: Vec<_> = response.headers().get_all("www-authenticate").iter().collect();
    assert_eq!(challenges.len(), 1);
    let challenge = challenges[0].to_str().unwrap();
    assert!(
        challenge.starts_with("Bearer "),
        "no browser asks for a password and keeps it: {challenge}"
    );
    for path in ["/token", "/v2/", PRIVATE] {
        let response = secured.ask("GET", path, Some(ADA)).await;
        assert!(!response.headers().contains_key("set-cookie"), "{path}");
        let request = secured
            .request("GET", path)
            .header("cookie", "session=ada; Authorization=Basic x");
        let status = secured.send(request, None).await.status();
        assert!(
            status == StatusCode::UNAUTHORIZED || path == "/token",
            "{path}: {status}"
        );
    }
}
