//! Lists: an image's tags, and what refers to a manifest. Both may come in pages.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use http::Method;
use http::header::{CONTENT_TYPE, LINK};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

use super::ask::Ask;
use super::send::Response;
use super::{Error, TOTAL, Upstream, accept};
use crate::oci::media_type::{self, MediaType};
use crate::oci::{Answer, Descriptor, Digest, ImageName, Tag};

/// How many pages of a list are read.
const PAGES: usize = 100;
/// How many tags are taken.
const TAGS: usize = 200_000;
/// How many referrers are taken.
const REFERRERS: usize = 10_000;
/// And how many bytes their pages may have together: they are all kept until the last has come.
const REFERRERS_BYTES: usize = 16 * 1024 * 1024;
/// How many tags a page is asked to have. More is an error at Amazon.
const PAGE_TAGS: usize = 1000;
/// The longest page: some registries ignore how many were asked for.
const PAGE: u64 = 32 * 1024 * 1024;

#[derive(Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}

/// What refers to a manifest, as an upstream tells it.
#[derive(Debug)]
pub struct Referrers {
    /// In its order.
    pub entries: Vec<Descriptor>,
    /// Whether there are more than were taken.
    pub is_cut: bool,
}

#[derive(Deserialize)]
struct ReferrerPage {
    #[serde(default, deserialize_with = "readable")]
    manifests: Vec<Descriptor>,
}

impl Upstream {
    /// All tags of an image, sorted, each once. What is no tag is left out.
    pub async fn tags(&self, image: &ImageName) -> Answer<Vec<Tag>, Error> {
        let Some(mut ask) = self.question(Method::GET, image, "tags/list") else {
            return Ok(None);
        };
        ask.url.set_query(Some(&format!("n={PAGE_TAGS}")));
        let mut tags = BTreeSet::new();
        let mut pages = Pages::of(&ask);
        while let Some(given) = self.0.registry.ask(&ask).await? {
            let next = pages.next(&given.response)?;
            let body = given.response.collect(PAGE, pages.end).await?;
            let page: TagPage = serde_json::from_slice(&body)
                .map_err(|error| Error::Lies(format!("its list of tags is not one: {error}")))?;
            tags.extend(page.tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()));
            match next {
                Some(url) if tags.len() < TAGS => ask.url = url,
                Some(_) => return Ok(Some(self.cut(image, tags))),
                None => return Ok(Some(tags.into_iter().take(TAGS).collect())),
            }
            if pages.are_too_many() {
                return Ok(Some(self.cut(image, tags)));
            }
        }
        // A 404 in the middle of a list is not the image's.
        if tags.is_empty() {
            Ok(None)
        } else {
            Err(Error::Unexpected { status: 404 })
        }
    }

    fn cut(&self, image: &ImageName, tags: BTreeSet<Tag>) -> Vec<Tag> {
        tracing::warn!(
            repository = %self.0.repository,
            %image,
            upstream = self.host(),
            "the upstream's list of tags is longer than is taken; the rest is left out"
        );
        tags.into_iter().take(TAGS).collect()
    }

    /// What refers to a manifest, by the API. `None` if the upstream does not have it, which it may say in many ways.
    pub async fn referrers(&self, image: &ImageName, subject: &Digest) -> Answer<Referrers, Error> {
        let Some(mut ask) = self.question(Method::GET, image, &format!("referrers/{subject}")) else {
            return Ok(None);
        };
        ask.accept = accept(&[media_type::OCI_INDEX]);
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut pages = Pages::of(&ask);
        loop {
            // In the middle of a list, nothing of this means that there is no such API.
            let is_first = pages.seen.len() == 1;
            let given = match self.0.registry.ask(&ask).await {
                Ok(Some(given)) => given,
                Ok(None) if is_first => return Ok(None),
                Ok(None) => return Err(Error::Unexpected { status: 404 }),
                Err(Error::Unexpected { status } | Error::Failing { status }) if is_first && says_unknown(status) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            if !is_index(&given.response) {
                return if is_first {
                    Ok(None)
                } else {
                    Err(Error::Lies("a page of its list of referrers is no index".to_owned()))
                };
            }
            let next = pages.next(&given.response)?;
            let body = given.response.collect(self.0.manifest_limit, pages.end).await?;
            let page: ReferrerPage = serde_json::from_slice(&body)
                .map_err(|error| Error::Lies(format!("its list of referrers is not one: {error}")))?;
            bytes += body.len();
            entries.extend(page.manifests);
            let is_full = entries.len() >= REFERRERS || bytes >= REFERRERS_BYTES || pages.are_too_many();
            match next {
                Some(url) if !is_full => ask.url = url,
                next => {
                    return Ok(Some(Referrers {
                        entries,
                        is_cut: next.is_some(),
                    }));
                }
            }
        }
    }
}

/// The entries of a list that can be read. One that cannot, such as one with a digest of another kind, does not hide the
/// others; and it is not kept until the last is read.
fn readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Descriptor>, D::Error> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<Descriptor>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of descriptors")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut written: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = written.next_element::<Value>()? {
                entries.extend(serde_json::from_value::<Descriptor>(entry));
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_any(Entries)
}

/// The statuses, besides 404, of registries that do not know the API.
const fn says_unknown(status: u16) -> bool {
    matches!(status, 400 | 405 | 406 | 501)
}

fn is_index(response: &Response) -> bool {
    response
        .header(CONTENT_TYPE.as_str())
        .and_then(MediaType::parse)
        .is_some_and(|media_type| media_type.as_str() == media_type::OCI_INDEX)
}

/// The pages of a list: bounded in number and time, each another one, all of one origin.
struct Pages {
    seen: HashSet<Url>,
    first: Url,
    end: Instant,
}

impl Pages {
    fn of(ask: &Ask) -> Self {
        Self {
            seen: HashSet::from([ask.url.clone()]),
            first: ask.url.clone(),
            end: Instant::now() + TOTAL * 2,
        }
    }

    fn are_too_many(&self) -> bool {
        self.seen.len() > PAGES
    }

    /// The page after this one. It is asked for with what lets us in at the registry, so it must be the registry's.
    fn next(&mut self, response: &Response) -> Result<Option<Url>, Error> {
        let Some(link) = response.header(LINK.as_str()).and_then(next_link) else {
            return Ok(None);
        };
        if response.is_foreign {
            return Err(Error::Lies("the next page of a list is on another host".to_owned()));
        }
        let next = response
            .url
            .join(link)
            .map_err(|_| Error::Lies("the next page of a list has no address".to_owned()))?;
        if next.origin() != self.first.origin() || !next.username().is_empty() || next.password().is_some() {
            return Err(Error::Lies("the next page of a list is on another host".to_owned()));
        }
        if Instant::now() >= self.end {
            return Err(Error::Timeout("the end of a list"));
        }
        if !self.seen.insert(next.clone()) {
            return Err(Error::Lies("its list goes in circles".to_owned()));
        }
        Ok(Some(next))
    }
}

/// The target of `rel="next"` in a `Link` header.
pub(super) fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, link)) = rest.split_once('<') {
        let (target, after) = link.split_once('>')?;
        let parameters = after.split('<').next().unwrap_or_default();
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if is_next {
            return Some(target);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_any_spelling() {
        for (header, target) in [
            (
                r#"</v2/a/tags/list?last=b&n=2>; rel="next""#,
                Some("/v2/a/tags/list?last=b&n=2"),
            ),
            ("<x>;rel=next", Some("x")),
            (r#"<a>; rel="prev", <b>; title="<"; rel="next""#, None),
            (r#"<a>; rel="prev", <b>; rel="NEXT""#, Some("b")),
            (r#"<a,b>; rel="next""#, Some("a,b")),
            ("<a>", None),
            ("<a", None),
            ("", None),
        ] {
            assert_eq!(next_link(header), target, "{header}");
        }
    }
}
