//! Tokens that somebody else's program signed, with keys that it made.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::signer::part;
use super::*;

fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("openssl is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {args:?}: {text}");
}

/// The public key of a private one; its numbers stand behind a header of fixed length.
fn public(dir: &Path, name: &str) -> Vec<u8> {
    openssl(
        dir,
        &[
            "pkey", "-in", name, "-pubout", "-outform", "DER", "-out", "pub",
        ],
    );
    fs::read(dir.join("pub")).unwrap()
}

/// An ECDSA signature as tokens have it: two numbers of 32 bytes, from the DER that openssl writes.
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = &der[2..];
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        out.extend(vec![0; 32 - number.len()]);
        out.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    out
}

#[tokio::test]
async fn tokens_that_openssl_signed_are_taken() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    openssl(
        dir,
        &[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:3072",
            "-out",
            "rsa",
        ],
    );
    openssl(
        dir,
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            "ec",
        ],
    );
    openssl(dir, &["genpkey", "-algorithm", "ED25519", "-out", "ed"]);
    let (rsa, ec, ed) = (public(dir, "rsa"), public(dir, "ec"), public(dir, "ed"));
    let (n, point) = (&rsa[33..33 + 384], &ec[27..]);
    let keys = json!({"keys": [
        {"kty": "RSA", "kid": "rsa", "n": part(n), "e": "AQAB"},
        {"kty": "EC", "kid": "ec", "crv": "P-256", "x": part(&point[..32]), "y": part(&point[32..])},
        {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": part(&ed[12..])},
    ]});
    let (app, bind) = (App::start("shop"), free());
    let rules = [rule(ISSUER, &keys.to_string(), "")];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let pss = [
        "-sigopt",
        "rsa_padding_mode:pss",
        "-sigopt",
        "rsa_pss_saltlen:digest",
    ];
    for (alg, kid, hash, more) in [
        ("RS256", "rsa", "-sha256", &[][..]),
        ("RS512", "rsa", "-sha512", &[]),
        ("PS384", "rsa", "-sha384", &pss),
        ("ES256", "ec", "-sha256", &[]),
        ("EdDSA", "ed", "", &[]),
    ] {
        let header = json!({"alg": alg, "kid": kid, "typ": "JWT"}).to_string();
        let signed = format!("{}.{}", part(header), part(alice().to_string()));
        fs::write(dir.join("in"), &signed).unwrap();
        if hash.is_empty() {
            openssl(
                dir,
                &[
                    "pkeyutl", "-sign", "-inkey", kid, "-rawin", "-in", "in", "-out", "out",
                ],
            );
        } else {
            let args = [
                &["dgst", hash, "-sign", kid, "-out", "out"][..],
                more,
                &["in"],
            ]
            .concat();
            openssl(dir, &args);
        }
        let mut signature = fs::read(dir.join("out")).unwrap();
        if alg == "ES256" {
            signature = fixed(&signature);
        }
        let token = format!("{signed}.{}", part(&signature));
        let answer = ask(bind, "/", &bearer(&token)).await;
        assert_eq!(status(&answer), 200, "{alg}: {answer}");
        signature[9] ^= 1;
        let token = format!("{signed}.{}", part(signature));
        assert_eq!(status(&ask(bind, "/", &bearer(&token)).await), 401, "{alg}");
    }
}
