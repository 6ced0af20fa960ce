//! What tells two states of a file apart, and what a client may ask on condition of them (RFC 9110,
//! 8.8 and 13).

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, ToStrError,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use httpdate::HttpDate;

use super::disk::Identity;
use super::value;

/// Entity tag and date of a file's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validators {
    tag: String,
    /// `None` in a release: files of two of them may have the same date (reproducible builds), and a
    /// rollback brings older ones. A date would take one for the other.
    modified: Option<HttpDate>,
}

/// A release that a file is in, shortly. Files of two releases may have the same time and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReleaseTag(u32);

impl ReleaseTag {
    /// FNV-1a of its path, which is the same on each host, and for every build of ours.
    pub(super) fn of(path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        Self(bytes.iter().fold(0x811c_9dc5, hash))
    }
}

/// What the conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// 304
    NotModified,
    /// 412
    Failed,
}

/// The last second that a date of HTTP can name: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

impl Validators {
    /// Of a file, in a `release` if it is in one.
    pub(super) fn new(identity: &Identity, release: Option<ReleaseTag>) -> Self {
        let (seconds, nanos) = identity.modified;
        let of_release = release.map_or_else(String::new, |ReleaseTag(tag)| format!("-{tag:x}"));
        Self {
            tag: format!(
                "\"{seconds:x}.{nanos:x}-{:x}{of_release}\"",
                identity.length
            ),
            modified: release.is_none().then(|| date(seconds)),
        }
    }

    pub(super) fn etag(&self) -> HeaderValue {
        value(&self.tag)
    }

    pub(super) fn last_modified(&self) -> Option<HeaderValue> {
        self.modified.map(|date| value(&date.to_string()))
    }

    /// RFC 9110, 13.2.2: a tag has precedence over a date. Who has no date ignores dates (13.1.3, 13.1.4).
    pub(super) fn check(&self, headers: &HeaderMap) -> Verdict {
        if headers.contains_key(IF_MATCH) {
            if !self.is_among(headers, IF_MATCH, false) {
                return Verdict::Failed;
            }
        } else if self.compared(headers, IF_UNMODIFIED_SINCE) == Some(Ordering::Greater) {
            return Verdict::Failed;
        }
        let has_it = if headers.contains_key(IF_NONE_MATCH) {
            self.is_among(headers, IF_NONE_MATCH, true)
        } else {
            // A later one is that of another file, which has been rolled back since. nginx's `exact`.
            self.compared(headers, IF_MODIFIED_SINCE) == Some(Ordering::Equal)
        };
        if has_it {
            Verdict::NotModified
        } else {
            Verdict::Send
        }
    }

    /// Our date, compared to the one in a header, where there are both.
    fn compared(&self, headers: &HeaderMap, name: HeaderName) -> Option<Ordering> {
        Some(self.modified?.cmp(&date_of(headers, name)?))
    }

    /// Whether a range that was asked for is one of this very state (RFC 9110, 13.1.5: a strong tag
    /// or a date, the same).
    pub(super) fn may_be_ranged(&self, headers: &HeaderMap) -> bool {
        let Some(validator) = headers.get(IF_RANGE) else {
            return true;
        };
        validator.as_bytes() == self.tag.as_bytes()
            || self.last_modified().as_ref() == Some(validator)
    }

    fn is_among(&self, headers: &HeaderMap, name: HeaderName, weak_too: bool) -> bool {
        let lists = headers.get_all(name).into_iter().map(HeaderValue::to_str);
        let lists = lists.collect::<Result<Vec<_>, ToStrError>>();
        lists.unwrap_or_default().into_iter().any(|list| {
            list.trim() == "*"
                || tags(list).any(|(is_weak, tag)| tag == self.tag && (weak_too || !is_weak))
        })
    }
}

/// Every date has a form in HTTP, those before 1970 and after 9999 that of the nearest that does.
fn date(seconds: i64) -> HttpDate {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(LAST_SECOND);
    HttpDate::from(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn date_of(headers: &HeaderMap, name: HeaderName) -> Option<HttpDate> {
    let date: SystemTime = httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()?;
    Some(date.into())
}

/// The entity tags of a list, quotes included, and whether each is a weak one. What is no tag ends
/// the list.
fn tags(mut list: &str) -> impl Iterator<Item = (bool, &str)> {
    std::iter::from_fn(move || {
        list = list.trim_start_matches([' ', '\t', ',']);
        let strong = list.strip_prefix("W/");
        let is_weak = strong.is_some();
        let tag = strong.unwrap_or(list);
        let end = tag.strip_prefix('"')?.find('"')? + 2;
        list = &tag[end..];
        Some((is_weak, &tag[..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_release(modified: (i64, i64), release: Option<ReleaseTag>) -> Validators {
        let identity = Identity {
            device: 1,
            inode: 2,
            length: 0x1f,
            modified,
            changed: (5, 5),
        };
        Validators::new(&identity, release)
    }

    fn of(modified: (i64, i64)) -> Validators {
        in_release(modified, None)
    }

    fn verdict(headers: &[(&'static str, &str)]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, text) in headers {
            map.append(*name, HeaderValue::from_str(text).unwrap());
        }
        of((1_000_000_000, 7)).check(&map)
    }

    #[test]
    fn times_that_no_header_can_name_are_the_nearest_that_it_can() {
        for (seconds, date) in [
            (i64::MIN, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (-1, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (1_000_000_000, "Sun, 09 Sep 2001 01:46:40 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (253_402_300_800, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(of((seconds, 0)).last_modified().unwrap(), date, "{seconds}");
        }
        assert_ne!(of((-1, 0)).etag(), of((-2, 0)).etag());
        assert_ne!(of((5, 1)).etag(), of((5, 2)).etag());
    }

    #[test]
    fn a_file_of_another_release_is_another_one_though_it_has_the_same_date() {
        let release = |path: &str| Some(ReleaseTag::of(Path::new(path)));
        let file = |path: &str| in_release((1_000_000_000, 7), release(path));
        let [one, two] = ["/srv/blog/1", "/srv/blog/2"].map(file);
        assert_eq!(one.etag(), file("/srv/blog/1").etag());
        assert_ne!(one.etag(), two.etag());
        assert_eq!(release("foobar"), Some(ReleaseTag(0xbf9c_f968)));
        assert_eq!(two.last_modified(), None);
        for date in [
            "Sun, 09 Sep 2001 01:46:39 GMT",
            "Sun, 09 Sep 2001 01:46:40 GMT",
            "Sun, 09 Sep 2001 01:46:41 GMT",
        ] {
            for condition in [IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE] {
                let headers = HeaderMap::from_iter([(condition, value(date))]);
                assert_eq!(two.check(&headers), Verdict::Send, "{headers:?}");
            }
            let headers = HeaderMap::from_iter([(IF_RANGE, value(date))]);
            assert!(!two.may_be_ranged(&headers), "{date}");
        }
        let tag = HeaderMap::from_iter([(IF_RANGE, two.etag())]);
        assert!(two.may_be_ranged(&tag) && !one.may_be_ranged(&tag));
    }

    #[test]
    fn conditions_hold_or_not_and_tags_go_before_dates() {
        use Verdict::{Failed, NotModified, Send};
        let tag = "\"3b9aca00.7-1f\"";
        let weak = format!("W/{tag}");
        let list = format!("\"a,b\" , W/\"x\",{tag}");
        let (before, same, after) = (
            "Sun, 09 Sep 2001 01:46:39 GMT",
            "Sun, 09 Sep 2001 01:46:40 GMT",
            "Sun, 09 Sep 2001 01:46:41 GMT",
        );
        for (headers, expected) in [
            (&[][..], Send),
            (&[("if-none-match", tag)], NotModified),
            (&[("if-none-match", &weak)], NotModified),
            (&[("if-none-match", &list)], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"x\"")], Send),
            (&[("if-none-match", "x, y")], Send),
            (
                &[("if-none-match", "\"x\""), ("if-none-match", tag)],
                NotModified,
            ),
            (
                &[("if-none-match", "\"x\""), ("if-modified-since", after)],
                Send,
            ),
            (&[("if-modified-since", before)], Send),
            (&[("if-modified-since", same)], NotModified),
            (&[("if-modified-since", after)], Send),
            (&[("if-modified-since", "yesterday")], Send),
            (&[("if-match", tag)], Send),
            (&[("if-match", "*")], Send),
            (&[("if-match", &weak)], Failed),
            (&[("if-match", "\"x\"")], Failed),
            (
                &[("if-match", "\"x\""), ("if-unmodified-since", after)],
                Failed,
            ),
            (&[("if-match", tag), ("if-unmodified-since", before)], Send),
            (&[("if-unmodified-since", before)], Failed),
            (&[("if-unmodified-since", same)], Send),
            (&[("if-match", tag), ("if-none-match", tag)], NotModified),
        ] {
            assert_eq!(verdict(headers), expected, "{headers:?}");
        }
    }
}
