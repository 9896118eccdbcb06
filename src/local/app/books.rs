//! The four services of the shop and their data.

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::call::{Caller, Failure};
use super::{Body, Kind, Options, html, json as answer, page, text};

/// What a reviews version does with stars: none, black, red.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stars {
    None,
    Colour(&'static str),
}

fn stars_of(version: &str) -> Stars {
    match version {
        "v2" => Stars::Colour("black"),
        "v3" => Stars::Colour("red"),
        _ => Stars::None,
    }
}

pub(super) async fn answer_books(
    options: &Options,
    caller: &Caller,
    request: &Request<Incoming>,
) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered here\n",
        );
    }
    let path = request.uri().path();
    let headers = request.headers();
    match options.kind {
        Kind::Productpage => productpage(options, caller, path, headers).await,
        Kind::Details => match id_after(path, "/details/") {
            Some(id) => answer(StatusCode::OK, &details(options, id)),
            None => missing(path),
        },
        Kind::Ratings => match id_after(path, "/ratings/") {
            Some(id) => answer(StatusCode::OK, &ratings(options, id)),
            None => missing(path),
        },
        Kind::Reviews => match id_after(path, "/reviews/") {
            Some(id) => answer(StatusCode::OK, &reviews(options, caller, id, headers).await),
            None => missing(path),
        },
        Kind::Echo => missing(path),
    }
}

fn id_after(path: &str, prefix: &str) -> Option<u32> {
    path.strip_prefix(prefix)?
        .trim_end_matches('/')
        .parse()
        .ok()
}

fn missing(path: &str) -> Response<Body> {
    text(StatusCode::NOT_FOUND, format!("nothing at {path}\n"))
}

async fn productpage(
    options: &Options,
    caller: &Caller,
    path: &str,
    headers: &HeaderMap,
) -> Response<Body> {
    let details_url = format!("{}/details/0", options.details);
    let reviews_url = format!("{}/reviews/0", options.reviews);
    match path {
        "/" | "/index.html" => html(page::index(options)),
        "/productpage" => {
            let (details, reviews) = futures_util::future::join(
                caller.json(&details_url, headers),
                caller.json(&reviews_url, headers),
            )
            .await;
            html(page::product(options, details.as_ref(), reviews.as_ref()))
        }
        "/api/v1/products" => answer(
            StatusCode::OK,
            &json!([{ "id": 0, "title": page::TITLE, "descriptionHtml": page::DESCRIPTION }]),
        ),
        "/api/v1/products/0" => {
            let (details, reviews) = futures_util::future::join(
                caller.json(&details_url, headers),
                caller.json(&reviews_url, headers),
            )
            .await;
            match (details, reviews) {
                (Ok(details), Ok(reviews)) => answer(
                    StatusCode::OK,
                    &json!({
                        "id": 0,
                        "title": page::TITLE,
                        "podname": options.pod,
                        "version": options.version,
                        "details": details,
                        "reviews": reviews,
                    }),
                ),
                (Err(failure), _) => failed(options, "details", &failure),
                (_, Err(failure)) => failed(options, "reviews", &failure),
            }
        }
        "/api/v1/products/0/reviews" => match caller.json(&reviews_url, headers).await {
            Ok(reviews) => answer(StatusCode::OK, &reviews),
            Err(failure) => failed(options, "reviews", &failure),
        },
        "/api/v1/products/0/ratings" => {
            match caller
                .json(&format!("{}/ratings/0", options.ratings), headers)
                .await
            {
                Ok(ratings) => answer(StatusCode::OK, &ratings),
                Err(failure) => failed(options, "ratings", &failure),
            }
        }
        other => missing(other),
    }
}

/// A neighbour's failure passes through with its status, so that a test sees what it was.
fn failed(options: &Options, service: &str, failure: &Failure) -> Response<Body> {
    answer(
        failure.status,
        &json!({
            "error": format!("{service} is not available"),
            "reason": failure.reason,
            "podname": options.pod,
        }),
    )
}

fn details(options: &Options, id: u32) -> Value {
    json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
        "podname": options.pod,
        "version": options.version,
    })
}

fn ratings(options: &Options, id: u32) -> Value {
    json!({
        "id": id,
        "ratings": { "Reviewer1": 5, "Reviewer2": 4 },
        "podname": options.pod,
        "version": options.version,
    })
}

async fn reviews(options: &Options, caller: &Caller, id: u32, headers: &HeaderMap) -> Value {
    let stars = match stars_of(&options.version) {
        Stars::None => None,
        Stars::Colour(colour) => Some((
            colour,
            caller
                .json(&format!("{}/ratings/{id}", options.ratings), headers)
                .await,
        )),
    };
    let rating = |reviewer: &str| {
        let (colour, ratings) = stars.as_ref()?;
        Some(match ratings {
            Ok(ratings) => json!({
                "stars": ratings.pointer(&format!("/ratings/{reviewer}")),
                "color": colour,
            }),
            Err(failure) => json!({
                "error": "ratings is not available",
                "status": failure.status.as_u16(),
                "reason": failure.reason,
            }),
        })
    };
    let review = |reviewer: &str, words: &str| {
        let mut review = json!({ "reviewer": reviewer, "text": words });
        if let (Some(rating), Some(map)) = (rating(reviewer), review.as_object_mut()) {
            map.insert("rating".to_owned(), rating);
        }
        review
    };
    json!({
        "id": id.to_string(),
        "podname": options.pod,
        "clustername": "local",
        "version": options.version,
        "reviews": [
            review(
                "Reviewer1",
                "Two pairs of twins, one town, and nobody thinks to ask. I laughed the whole evening.",
            ),
            review(
                "Reviewer2",
                "Light and quick. The later plays run deeper, but none is over so soon.",
            ),
        ],
    })
}
