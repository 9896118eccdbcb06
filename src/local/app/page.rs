//! The pages that people look at.

use std::fmt::Write as _;

use serde_json::Value;

use super::Options;
use super::call::Failure;

/// The one product there is.
pub(super) const TITLE: &str = "The Comedy of Errors";
/// What the book is about.
pub(super) const DESCRIPTION: &str = "Two masters and two servants, each pair twins parted at sea, \
     meet in Ephesus without knowing it. Everyone takes everyone for someone else.";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:54rem;margin:2rem auto;padding:0 1rem;color:#222}\
     .two{display:flex;gap:3rem;flex-wrap:wrap}.two>section{flex:1 1 20rem}blockquote{margin:0 0 1rem;padding-left:1rem;border-left:3px solid #ccc}\
     small{color:#666}.error{color:#a00}dt{font-weight:600}.stars{font-size:1.4rem;letter-spacing:.1em}";

pub(super) fn index(options: &Options) -> String {
    frame(
        "Bookinfo",
        &format!(
            "<h1>Bookinfo</h1><p>A small shop of four services. <a href=\"/productpage\">Open the product page</a>.</p>\
             <p><small>served by {}</small></p>",
            escape(&options.pod)
        ),
    )
}

/// The product page; a neighbour that failed leaves an apology in its place.
pub(super) fn product(
    options: &Options,
    details: Result<&Value, &Failure>,
    reviews: Result<&Value, &Failure>,
) -> String {
    let mut body = format!(
        "<h1>{}</h1><p>{}</p><div class=\"two\"><section><h2>Book details</h2>",
        escape(TITLE),
        escape(DESCRIPTION)
    );
    match details {
        Ok(details) => body.push_str(&facts(details)),
        Err(failure) => body.push_str(&sorry("details", failure)),
    }
    body.push_str("</section><section><h2>Book reviews</h2>");
    match reviews {
        Ok(reviews) => body.push_str(&opinions(reviews)),
        Err(failure) => body.push_str(&sorry("reviews", failure)),
    }
    body.push_str("</section></div>");
    push(
        &mut body,
        format_args!("<p><small>page by {}</small></p>", escape(&options.pod)),
    );
    frame(TITLE, &body)
}

fn facts(details: &Value) -> String {
    let mut out = "<dl>".to_owned();
    for (key, label) in [
        ("type", "Type"),
        ("pages", "Pages"),
        ("publisher", "Publisher"),
        ("language", "Language"),
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
    ] {
        push(
            &mut out,
            format_args!("<dt>{label}</dt><dd>{}</dd>", escape(&words(details, key))),
        );
    }
    push(
        &mut out,
        format_args!(
            "</dl><p><small>details by {}</small></p>",
            escape(&words(details, "podname"))
        ),
    );
    out
}

fn opinions(reviews: &Value) -> String {
    let mut out = String::new();
    let list = reviews.get("reviews").and_then(Value::as_array);
    for review in list.into_iter().flatten() {
        push(
            &mut out,
            format_args!(
                "<blockquote><p>{}</p><small>{}</small>{}</blockquote>",
                escape(&words(review, "text")),
                escape(&words(review, "reviewer")),
                review.get("rating").map(stars).unwrap_or_default()
            ),
        );
    }
    push(
        &mut out,
        format_args!(
            "<p><small>reviews {} by {}</small></p>",
            escape(&words(reviews, "version")),
            escape(&words(reviews, "podname"))
        ),
    );
    out
}

fn stars(rating: &Value) -> String {
    let Some(count) = rating.get("stars").and_then(Value::as_u64) else {
        return "<p class=\"error\">Ratings are not available at the moment.</p>".to_owned();
    };
    let colour = match words(rating, "color").as_str() {
        "red" => "#c00",
        _ => "#000",
    };
    let shown: String = (0..5).map(|i| if i < count { '★' } else { '☆' }).collect();
    format!(
        "<div class=\"stars\" style=\"color:{colour}\" title=\"{count} of 5 stars\">{shown}</div>"
    )
}

fn sorry(service: &str, failure: &Failure) -> String {
    format!(
        "<p class=\"error\">Sorry, {service} are not available at the moment ({}).</p>",
        failure.status.as_u16()
    )
}

/// A member as words, whether it is a string or a number; empty when it is missing.
fn words(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn frame(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head><body>{body}</body></html>\n",
        escape(title)
    )
}

fn push(out: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = out.write_fmt(words).is_ok();
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn neighbours_cannot_put_markup_into_the_page() {
        let options = Options::new("productpage", None, |_| None).unwrap();
        let evil = json!({ "podname": "<script>", "publisher": "a & \"b\"" });
        let failure = Failure {
            status: http::StatusCode::SERVICE_UNAVAILABLE,
            reason: String::new(),
        };
        let page = product(&options, Ok(&evil), Err(&failure));
        assert!(!page.contains("<script>"));
        assert!(page.contains("a &amp; &quot;b&quot;"));
        assert!(page.contains("Sorry, reviews are not available at the moment (503)"));
    }
}
