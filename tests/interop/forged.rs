//! Tokens that somebody made up, in raw bytes to the real executable: none of them comes near the application.

#[path = "../it/proxy/tokens/forgeries.rs"]
mod forgeries;
#[path = "../it/proxy/tokens/signer.rs"]
mod signer;

use meshctl::rt::Tasks;

use crate::attacks::{Heard, by_http2, request, told};
use crate::mesh::{App, Mesh, service};
use forgeries::{ALGORITHMS, ISSUER, alice, forgeries, now};
use signer::Signer;

fn rules(signer: &Signer) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  jwtRules:
  - issuer: {ISSUER}
    audiences: [shop]
    jwks: '{}'
",
        signer.keys()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forged_token_gets_past_a_sidecar() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let signer = Signer::new();
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(&rules(&signer));
    let (heard, at) = Heard::start(&tasks);
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at,
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    let to = web.inbound(9080);
    let asked = |token: &str| request("GET /", &format!("Authorization: Bearer {token}\r\n"));

    let mut all = forgeries(&signer);
    assert!(all.len() > 150, "{}", all.len());
    for size in [25_000, 40_000, 100_000] {
        let mut claims = alice();
        claims["x"] = "x".repeat(size).into();
        all.push(("a huge one".to_owned(), signer.token("ES256", &claims)));
    }
    let mut other = alice();
    other["aud"] = "others".into();
    all.push((
        "another's audience".to_owned(),
        signer.token("ES256", &other),
    ));
    let mut late = alice();
    late["exp"] = (now() - 61).into();
    all.push(("an old one".to_owned(), signer.token("ES256", &late)));
    for (what, token) in &all {
        let status = told(to, &asked(token)).await;
        // Some are no field of HTTP, or too long for one.
        let expected = match what.as_str() {
            "another's audience" => status == 403,
            _ => matches!(status, 400 | 401 | 431),
        };
        assert!(expected, "{what}: {token}: {status}");
        // The same by HTTP/2.
        if token.len() > 4_000 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            continue;
        }
        let bearer = format!("Bearer {token}");
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "web"),
            ("authorization", bearer.as_str()),
        ];
        let status = by_http2(to, &fields).await;
        assert!(
            matches!(status, 0 | 400 | 401 | 403),
            "{what}: {token}: {status}"
        );
    }
    // A good one beside a bad one is no way around either.
    let good = signer.token("ES256", &alice());
    let bad = Signer::new().token("ES256", &alice());
    for [first, second] in [[&good, &bad], [&bad, &good]] {
        let two = format!("Authorization: Bearer {first}\r\nAuthorization: Bearer {second}\r\n");
        let status = told(to, &request("GET /", &two)).await;
        assert!(matches!(status, 400 | 401), "{status}");
        let line = format!("GET /?access_token={first}");
        let both = format!("Authorization: Bearer {second}\r\n");
        let status = told(to, &request(&line, &both)).await;
        assert!(matches!(status, 400 | 401), "{status}");
    }
    assert_eq!(heard.hits(), 0, "{}", heard.last());

    // It is not that nothing gets through.
    for algorithm in ALGORITHMS {
        let token = signer.token(algorithm, &alice());
        assert_eq!(told(to, &asked(&token)).await, 200, "{algorithm}");
        assert!(!heard.last().contains("authorization"), "{}", heard.last());
    }
    assert_eq!(heard.hits(), ALGORITHMS.len());
    drop(mesh);
    tasks.end().await;
}
