//! `WWW-Authenticate`: how a registry says what it wants to see.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use url::Url;

/// Longer ones are no challenges but attacks.
const LONGEST: usize = 4096;

/// What a 401 asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token from elsewhere.
    Bearer(Bearer),
}

/// Where a token is to be had, and for what.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: Url,
    service: Option<String>,
    scope: Option<String>,
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bearer(from {})", self.realm.host_str().unwrap_or_default())
    }
}

impl Bearer {
    /// The URL that gives the token. The realm's own query stays: some carry the scope in it. A challenge without a
    /// scope means the one that belongs to the request, `scope`.
    pub(super) fn token_url(&self, scope: &str) -> Url {
        let has = |name: &str| self.realm.query_pairs().any(|(key, _)| key == name);
        let (has_service, has_scope) = (has("service"), has("scope"));
        let scope = match &self.scope {
            Some(scope) => Some(only_reading(scope)),
            None if has_scope => None,
            None => Some(scope.to_owned()),
        };
        let mut url = self.realm.clone();
        if let Some(service) = self.service.as_ref().filter(|_| !has_service) {
            url.query_pairs_mut().append_pair("service", service);
        }
        if let Some(scope) = scope {
            url.query_pairs_mut().append_pair("scope", &scope);
        }
        url
    }
}

/// The challenges of an answer, those first that are to be tried first. What cannot be read, or names a realm that is
/// no web address, is left out.
pub(super) fn read(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .take(8)
        .filter_map(|value| value.to_str().ok())
        .filter(|text| text.len() <= LONGEST)
        .filter_map(|text| http_auth::parse_challenges(text).ok())
        .flatten()
        .filter_map(|challenge| understand(&challenge))
        .collect();
    // A registry that offers both means Basic for those who cannot do better.
    challenges.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    challenges
}

fn understand(challenge: &http_auth::ChallengeRef<'_>) -> Option<Challenge> {
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameter = |name: &str| {
        let (_, value) = challenge
            .params
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped()).filter(|text| !text.is_empty())
    };
    let realm: Url = parameter("realm")?.parse().ok()?;
    let is_web = matches!(realm.scheme(), "http" | "https") && realm.host_str().is_some();
    let is_plain = realm.username().is_empty() && realm.password().is_none();
    (is_web && is_plain).then(|| {
        Challenge::Bearer(Bearer {
            realm,
            service: parameter("service"),
            scope: parameter("scope"),
        })
    })
}

/// The challenged scope without the right to write: what we never do, no token of ours should allow. Scopes that are
/// not of the usual form (`aws`) stay as they are.
fn only_reading(scope: &str) -> String {
    let scopes: Vec<String> = scope.split_ascii_whitespace().map(reading_one).collect();
    scopes.join(" ")
}

fn reading_one(scope: &str) -> String {
    let Some((name, actions)) = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':')) else {
        return scope.to_owned();
    };
    let harmless: Vec<&str> = actions
        .split(',')
        .filter(|action| !matches!(*action, "push" | "delete" | "*" | ""))
        .collect();
    let actions = if harmless.is_empty() {
        "pull".to_owned()
    } else {
        harmless.join(",")
    };
    format!("repository:{name}:{actions}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn challenges(texts: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(text).expect("a value"));
        }
        read(&headers)
    }

    fn url(text: &str) -> String {
        match challenges(&[text]).into_iter().next() {
            Some(Challenge::Bearer(bearer)) => bearer.token_url("repository:a/b:pull").to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_challenges_of_well_known_registries_are_understood() {
        for (challenge, expected) in [
            // Docker Hub.
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Alibrary%2Falpine%3Apull",
            ),
            // Amazon's public registry: a scope of another form.
            (
                r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
                "https://public.ecr.aws/token/?service=public.ecr.aws&scope=aws",
            ),
            // NVIDIA: the scope in the realm, no service.
            (
                r#"Bearer realm="https://nvcr.io/proxy_auth?scope=repository:nvidia/x:pull,push""#,
                "https://nvcr.io/proxy_auth?scope=repository:nvidia/x:pull,push",
            ),
            // No scope at all: that of the request.
            (
                "Bearer realm=\"https://r.example/token?account=me\"",
                "https://r.example/token?account=me&scope=repository%3Aa%2Fb%3Apull",
            ),
            // More than reading is never asked for.
            (
                r#"bearer Realm="https://r.example/t",scope="repository:a/b:pull,push repository:c:* repository:d:metadata_read""#,
                "https://r.example/t?scope=repository%3Aa%2Fb%3Apull+repository%3Ac%3Apull+repository%3Ad%3Ametadata_read",
            ),
        ] {
            assert_eq!(url(challenge), expected);
        }
    }

    #[test]
    fn bearer_goes_before_basic_wherever_it_stands() {
        let both = challenges(&[r#"Basic realm="x", Bearer realm="https://r.example/t",service="s""#]);
        assert!(matches!(both[..], [Challenge::Bearer(_), Challenge::Basic]), "{both:?}");
        let both = challenges(&["Basic realm=x", r#"Bearer realm="https://r.example/t""#]);
        assert!(matches!(both[..], [Challenge::Bearer(_), Challenge::Basic]), "{both:?}");
    }

    #[test]
    fn realms_that_are_no_plain_web_addresses_are_left_out() {
        for realm in [
            "file:///etc/passwd",
            "https://user:pw@r.example/t",
            "/token",
            "ftp://r.example/",
            "",
            "javascript:1",
        ] {
            assert_eq!(challenges(&[&format!("Bearer realm=\"{realm}\"")]), [], "{realm}");
        }
        let long = format!("Bearer realm=\"https://r.example/{}\"", "a".repeat(LONGEST));
        for junk in ["Bearer", "Negotiate abc==", ",,,", "Bearer realm=\"", long.as_str()] {
            assert_eq!(challenges(&[junk]), [], "{junk:.40}");
        }
    }
}
