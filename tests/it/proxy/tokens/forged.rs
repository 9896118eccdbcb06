//! Tokens that somebody made up: none of them comes near the application.

use super::forgeries::forgeries;
use super::*;

#[tokio::test]
async fn forged_tokens_are_refused_and_never_reach_the_application() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let rules = [rule(ISSUER, &signer.keys(), "audiences: [shop]")];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let all = forgeries(&signer);
    assert!(all.len() > 150, "{}", all.len());
    for (what, token) in &all {
        let answer = ask(bind, "/", &bearer(token)).await;
        // Some are no field of HTTP, and end there.
        let expected: &[u16] = if token
            .bytes()
            .any(|byte| byte.is_ascii_control() && byte != b'\t')
        {
            &[400, 401]
        } else {
            &[401]
        };
        assert!(
            expected.contains(&status(&answer)),
            "{what}: {token}\n{answer}"
        );
        assert!(!answer.contains("shop GET"), "{what}: {answer}");
    }
    assert_eq!(app.hits(), 0);
    // It is not that nothing gets through.
    let good = signer.token("RS256", &alice());
    assert_eq!(status(&ask(bind, "/", &bearer(&good)).await), 200);
    assert_eq!(app.hits(), 1);
}

#[tokio::test]
async fn a_huge_token_is_refused() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let rules = [rule(ISSUER, &signer.keys(), "")];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let of = |size: usize| {
        let mut claims = alice();
        claims["x"] = "x".repeat(size).into();
        signer.token("ES256", &claims)
    };
    assert_eq!(status(&ask(bind, "/", &bearer(&of(8_000))).await), 200);
    for size in [25_000, 40_000, 100_000] {
        let answer = ask(bind, "/", &bearer(&of(size))).await;
        assert!([401, 431].contains(&status(&answer)), "{size}: {answer}");
    }
    assert_eq!(app.hits(), 1);
}
