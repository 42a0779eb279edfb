//! Amazon's registries, as their hosts tell them.

use url::Url;

/// The domains of AWS's partitions, by how the names of their regions begin.
const PARTITIONS: [(&str, &str); 6] = [
    ("cn-", "amazonaws.com.cn"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
];

/// The domain of AWS's services of a region.
pub fn suffix_of(region: &str) -> &'static str {
    let found = PARTITIONS.iter().find(|(begin, _)| region.starts_with(begin));
    found.map_or("amazonaws.com", |(_, suffix)| suffix)
}

/// One of Amazon's registries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmazonRegistry {
    /// Where it is.
    pub region: String,
    /// Whose API gives tokens for it.
    pub endpoint: String,
    /// The public one, whose API has another name.
    pub is_public: bool,
}

impl AmazonRegistry {
    /// That of an account; or what is wrong with the address.
    pub fn private(registry: &Url) -> Result<Self, &'static str> {
        let found = private(registry.host_str().unwrap_or_default());
        usual(
            registry,
            found,
            "the url is none of Amazon ECR's, https://ACCOUNT.dkr.ecr.REGION.amazonaws.com",
        )
    }

    /// The public one; or what is wrong with the address.
    pub fn public(registry: &Url) -> Result<Self, &'static str> {
        let found = public(registry.host_str().unwrap_or_default());
        usual(
            registry,
            found,
            "the url is not that of Amazon's public registry, https://public.ecr.aws",
        )
    }
}

fn usual<T>(registry: &Url, found: Option<T>, otherwise: &'static str) -> Result<T, &'static str> {
    let found = found.ok_or(otherwise)?;
    if registry.scheme() == "https" && registry.port_or_known_default() == Some(443) {
        return Ok(found);
    }
    Err("Amazon's registries are asked by https on port 443 and in no other way")
}

/// `123456789012.dkr.ecr.eu-west-1.amazonaws.com`, its forms for FIPS and IPv6 and those of other partitions.
fn private(host: &str) -> Option<AmazonRegistry> {
    let (account, rest) = host.split_once('.')?;
    if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (kind, rest) = ["dkr.ecr.", "dkr.ecr-fips.", "dkr-ecr.", "dkr-ecr-fips."]
        .into_iter()
        .find_map(|kind| Some((kind, rest.strip_prefix(kind)?)))?;
    let (region, suffix) = rest.split_once('.')?;
    let is_region = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if region.is_empty() || !region.bytes().all(is_region) {
        return None;
    }
    let home = suffix_of(region);
    let both = match home {
        "amazonaws.com.cn" => ("on.amazonwebservices.com.cn", "api.amazonwebservices.com.cn"),
        _ => ("on.aws", "api.aws"),
    };
    let endpoint = match kind {
        "dkr.ecr." if suffix == home => format!("https://api.ecr.{region}.{home}/"),
        "dkr.ecr-fips." if suffix == home => format!("https://ecr-fips.{region}.{home}/"),
        "dkr-ecr." if suffix == both.0 => format!("https://ecr.{region}.{}/", both.1),
        "dkr-ecr-fips." if suffix == both.0 => format!("https://ecr-fips.{region}.{}/", both.1),
        _ => return None,
    };
    Some(AmazonRegistry {
        region: region.to_owned(),
        endpoint,
        is_public: false,
    })
}

/// Its tokens are given in one region only.
fn public(host: &str) -> Option<AmazonRegistry> {
    let endpoint = match host {
        "public.ecr.aws" => "https://api.ecr-public.us-east-1.amazonaws.com/",
        "ecr-public.aws.com" => "https://ecr-public.us-east-1.api.aws/",
        _ => return None,
    };
    Some(AmazonRegistry {
        region: "us-east-1".to_owned(),
        endpoint: endpoint.to_owned(),
        is_public: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_says_whom_to_ask_and_nobody_else_is_one() {
        for (host, expected) in [
            (
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
                Some(("eu-west-1", "https://api.ecr.eu-west-1.amazonaws.com/")),
            ),
            (
                "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                Some(("us-gov-west-1", "https://ecr-fips.us-gov-west-1.amazonaws.com/")),
            ),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                Some(("cn-north-1", "https://api.ecr.cn-north-1.amazonaws.com.cn/")),
            ),
            (
                "123456789012.dkr-ecr.eu-north-1.on.aws",
                Some(("eu-north-1", "https://ecr.eu-north-1.api.aws/")),
            ),
            (
                "123456789012.dkr-ecr-fips.us-east-1.on.aws",
                Some(("us-east-1", "https://ecr-fips.us-east-1.api.aws/")),
            ),
            (
                "123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
                Some(("cn-north-1", "https://ecr.cn-north-1.api.amazonwebservices.com.cn/")),
            ),
            (
                "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
                Some(("eusc-de-east-1", "https://api.ecr.eusc-de-east-1.amazonaws.eu/")),
            ),
            ("12345678901.dkr.ecr.eu-west-1.amazonaws.com", None),
            ("12345678901x.dkr.ecr.eu-west-1.amazonaws.com", None),
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.org", None),
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.cn", None),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com", None),
            ("123456789012.dkr.ecr.evil.org", None),
            ("123456789012.dkr.ecr.eu_west.amazonaws.com", None),
            ("123456789012.dkr.ecr..amazonaws.com", None),
            ("123456789012.dkr-ecr.eu-west-1.amazonaws.com", None),
            ("evil.org", None),
            ("public.ecr.aws", None),
        ] {
            let registry = private(host);
            let found = registry
                .as_ref()
                .map(|registry| (registry.region.as_str(), registry.endpoint.as_str()));
            assert_eq!(found, expected, "{host}");
        }
        assert!(public("public.ecr.aws").is_some());
        assert!(public("public.ecr.aws.evil.org").is_none());
    }
}
