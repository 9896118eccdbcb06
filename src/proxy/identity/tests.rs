use super::*;
use std::net::SocketAddr;

#[test]
fn renewal_is_at_half_of_any_life() {
    for life in [10_000, 3_600_000, 86_400_000_u64] {
        let at = |chance| renewal_at(1_000_000, 1_000_000 + life, chance) - 1_000_000;
        assert_eq!(at(0.5), life / 2);
        assert_eq!(at(0.0), life * 49 / 100);
        assert_eq!(at(1.0), life * 51 / 100);
    }
    assert_eq!(renewal_at(5, 5, 0.7), 5);
}

#[tokio::test(start_paused = true)]
async fn renewal_waits_for_the_calendar_and_not_for_the_timer() {
    let now: UnixMillis = 1_800_000_000_000;
    let ca = tls::Authority::generate("cluster.local", now).unwrap();
    let id = SpiffeId::new("cluster.local", "shop", "cart");
    let material = ca.issue_pair(&id, Duration::from_hours(24), now).unwrap();
    let mut options =
        IdentityOptions::new(SocketAddr::from(([127, 0, 0, 1], 1)), id, "/nonexistent");
    options.wall = Wall::fixed(now);
    let wall = options.wall.clone();
    let client = IdentityClient::new(options);
    let waiting = client.wait_for_renewal(&material);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_hours(48), waiting.as_mut()).await;
    assert!(early.is_err(), "the calendar stood still");
    // As if the machine had been suspended over the time of renewal.
    wall.advance(Duration::from_hours(13));
    tokio::time::timeout(LOOK * 2, waiting).await.unwrap();
}

#[test]
fn secrets_are_not_shown() {
    let source = TokenSource::Value("mj_secret".to_owned());
    assert!(!format!("{source:?}").contains("secret"));
}
