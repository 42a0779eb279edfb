//! Pages of a sorted list: `n`, `last` and the `Link` header.

/// The most entries one page holds, whatever `n` says: an allocation never follows a client's number (CVE-2023-2253).
pub const MAX_PAGE: usize = 1000;

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many; without it, all.
    pub n: Option<usize>,
    /// Only what sorts after this.
    pub last: Option<String>,
}

impl Page {
    /// Cuts one page out of a sorted iterator that may hold entries up to and including `last`. The second value says
    /// that more follows.
    pub fn cut<T: AsRef<str>>(&self, sorted: impl IntoIterator<Item = T>) -> (Vec<T>, bool) {
        let mut rest = sorted
            .into_iter()
            .filter(|entry| self.last.as_deref().is_none_or(|last| entry.as_ref() > last));
        let Some(n) = self.n else {
            return (rest.collect(), false);
        };
        if n == 0 {
            return (Vec::new(), false);
        }
        let page: Vec<T> = rest.by_ref().take(n).collect();
        let more = rest.next().is_some();
        (page, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: Option<usize>, last: Option<&str>) -> (Vec<&'static str>, bool) {
        let page = Page {
            n,
            last: last.map(str::to_owned),
        };
        page.cut(["a", "b", "c", "d"])
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        assert_eq!(page(None, None), (vec!["a", "b", "c", "d"], false));
        assert_eq!(page(Some(0), None), (vec![], false));
        assert_eq!(page(Some(2), None), (vec!["a", "b"], true));
        assert_eq!(page(Some(2), Some("b")), (vec!["c", "d"], false));
        assert_eq!(page(Some(2), Some("bb")), (vec!["c", "d"], false));
        assert_eq!(page(None, Some("c")), (vec!["d"], false));
    }
}
