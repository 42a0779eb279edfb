//! Ways in to what is read of a cloud, for `fuzz/`.

use std::collections::HashMap;

use super::amazon;

/// A file of AWS's profiles, of either kind.
pub fn profiles(text: &str) {
    for has_prefix in [true, false] {
        let mut read = HashMap::new();
        amazon::profiles::parse(text, has_prefix, &mut read);
        let written = || read.iter().flat_map(|(_, profile)| profile);
        assert!(
            written().all(|(key, value)| key.trim() == key && value.trim() == value && !key.contains('=')),
            "what counts is what stands there, without the space around it"
        );
        let mut again = read.clone();
        amazon::profiles::parse(text, has_prefix, &mut again);
        assert!(again == read, "the same file says the same");
    }
}

/// The answer of AWS's Security Token Service.
pub fn role(body: &[u8]) {
    if let Some(keys) = amazon::sts::read_keys(body) {
        let shown = [
            Some(keys.id.as_str()),
            Some(keys.secret.reveal()),
            keys.token.as_ref().map(|token| token.reveal()),
        ];
        assert!(
            shown
                .into_iter()
                .flatten()
                .all(|part| part.bytes().all(|byte| byte.is_ascii_graphic())),
            "what is signed with fits into a header"
        );
    }
}
