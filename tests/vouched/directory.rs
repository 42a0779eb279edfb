//! Users of a directory: who binds, what is remembered, and what a directory that fails is taken for.

use std::time::Duration;

use entrepot::access::{Identity, Kind, Unidentified};
use entrepot::config::{AuthConfig, LdapConfig, Secret};
use futures_util::future::join_all;

use super::support::directory::{Directory, Mood};
use super::{access, bearer, closed, password};

const ADA: &str = "uid=ada,ou=people,dc=acme";

fn with(ldap: LdapConfig) -> AuthConfig {
    AuthConfig {
        ldap: Some(ldap),
        ..closed()
    }
}

#[tokio::test]
async fn who_binds_is_known_with_their_groups_for_a_minute() {
    let directory = Directory::start(ADA, "glass", &["admins", "team"]).await;
    let config = with(directory.config());
    let access = access(&config, None);
    let ada = password(&access, "ada", "glass").await.expect("right");
    assert_eq!((ada.kind, ada.name.as_str()), (Kind::User, "ada"));
    assert_eq!(
        ada.groups.iter().map(String::as_str).collect::<Vec<_>>(),
        ["admins", "team"]
    );
    // Remembered, and not for another password.
    assert!(password(&access, "ada", "glass").await.is_ok());
    assert_eq!(directory.binds(), [ADA]);
    assert_eq!(password(&access, "ada", "Glass").await, Err(Unidentified::Unknown));
    assert_eq!(directory.binds().len(), 2);
    // Our token lasts no longer than that, and brings the groups back.
    let who = Identity::Known(ada);
    let minted = access.mint(&who);
    assert!(minted.expires_in <= Duration::from_secs(60));
    assert!(
        bearer(&access, &minted.token)
            .await
            .expect("ours")
            .groups
            .contains("admins")
    );
    assert!(access.mint_refresh(&who).is_none());
    // A reload asks again.
    let access = super::access(&config, Some(&access));
    assert!(password(&access, "ada", "glass").await.is_ok());
    assert_eq!(directory.binds().len(), 3);
}

#[tokio::test]
async fn nobody_binds_without_a_password_or_as_somebody_else() {
    let directory = Directory::start(ADA, "", &[]).await;
    let access = access(&with(directory.config()), None);
    // A directory that takes no password for a good one, as many do, is not asked.
    for (user, wrong) in [("ada", ""), ("ada ", ""), (" ada", "x"), ("a\nb", "x")] {
        assert_eq!(
            password(&access, user, wrong).await,
            Err(Unidentified::Unknown),
            "{user:?}"
        );
    }
    assert!(directory.binds().is_empty());
    let access = super::access(&with(directory.config()), None);
    for user in ["ada,ou=people,dc=acme", "ada+cn=x", "*", "ada)(uid=*"] {
        assert_eq!(password(&access, user, "x").await, Err(Unidentified::Unknown));
    }
    let entries = directory.binds();
    assert_eq!(entries.len(), 4);
    assert!(
        entries
            .iter()
            .all(|entry| entry.ends_with(",ou=people,dc=acme") && entry != ADA)
    );
    assert_eq!(entries[0], r"uid=ada\2cou\3dpeople\2cdc\3dacme,ou=people,dc=acme");
}

#[tokio::test]
async fn a_user_of_the_password_file_is_not_looked_for() {
    let directory = Directory::start(ADA, "theirs", &["admins"]).await;
    let hash = bcrypt::hash_with_salt("ours", 4, [7; 16]).expect("a hash").to_string();
    let access = access(
        &AuthConfig {
            htpasswd: [("ada".to_owned(), Secret::new(hash))].into(),
            ..with(directory.config())
        },
        None,
    );
    assert!(password(&access, "ada", "ours").await.expect("right").groups.is_empty());
    assert_eq!(password(&access, "ada", "theirs").await, Err(Unidentified::Unknown));
    assert!(directory.binds().is_empty());
}

#[tokio::test]
async fn a_directory_that_fails_has_not_said_no() {
    let directory = Directory::start(ADA, "glass", &["admins"]).await;
    let access = access(
        &with(LdapConfig {
            timeout: Duration::from_millis(500),
            ..directory.config()
        }),
        None,
    );
    for mood in [
        Mood::Closed,
        Mood::Silent,
        Mood::Mad,
        Mood::Secretive,
        Mood::Says(1),
        Mood::Says(8),
        Mood::Says(10),
        Mood::Says(13),
        Mood::Says(51),
        Mood::Says(52),
        Mood::Says(80),
    ] {
        directory.be(mood);
        let said = password(&access, "ada", "glass").await;
        assert!(matches!(said, Err(Unidentified::Unavailable(_))), "{said:?}");
        let Err(Unidentified::Unavailable(reason)) = said else {
            return;
        };
        assert!(!reason.contains("glass") && reason.contains("ldap://"), "{reason}");
    }
    for code in [32, 34, 48, 49, 53] {
        directory.be(Mood::Says(code));
        assert_eq!(
            password(&access, "eve", "x").await,
            Err(Unidentified::Unknown),
            "{code}"
        );
    }
    directory.be(Mood::Good);
    assert!(
        password(&access, "ada", "glass").await.is_ok(),
        "an outage is nobody's mistake"
    );
    // What is known goes on while it is away.
    directory.be(Mood::Closed);
    assert!(password(&access, "ada", "glass").await.is_ok());
    // Nobody is there.
    let mut gone = directory.config();
    drop(directory);
    gone.timeout = Duration::from_secs(5);
    let said = password(&super::access(&with(gone), None), "ada", "glass").await;
    assert!(matches!(said, Err(Unidentified::Unavailable(_))), "{said:?}");
}

#[tokio::test]
async fn a_crowd_at_a_slow_directory_is_told_to_come_later() {
    let directory = Directory::start(ADA, "glass", &[]).await;
    directory.be(Mood::Silent);
    let access = access(
        &with(LdapConfig {
            timeout: Duration::from_secs(1),
            ..directory.config()
        }),
        None,
    );
    let users: Vec<String> = (0..200).map(|number| format!("user{number}")).collect();
    let said = join_all(users.iter().map(|user| password(&access, user, "x"))).await;
    let busy = said
        .iter()
        .filter(|said| matches!(said, Err(Unidentified::Busy { .. })))
        .count();
    let unavailable = said
        .iter()
        .filter(|said| matches!(said, Err(Unidentified::Unavailable(_))))
        .count();
    assert_eq!(busy + unavailable, 200, "{said:?}");
    assert!(busy >= 200 - 72, "{busy}");
}

#[tokio::test]
async fn who_guesses_at_the_directory_is_made_to_wait() {
    let directory = Directory::start(ADA, "glass", &[]).await;
    let access = access(&with(directory.config()), None);
    let mut asked = 0;
    for number in 0..30 {
        match password(&access, "ada", &format!("guess{number}")).await {
            Err(Unidentified::Unknown) => asked += 1,
            said => assert!(matches!(said, Err(Unidentified::Busy { .. })), "{said:?}"),
        }
    }
    assert!(asked < 10, "{asked}");
    assert_eq!(directory.binds().len(), asked);
}
