//! The web page over the API.
//!
//! Owns the page's bundle and its JSON, none of which is built yet; `meshctl top` shows the same numbers.
//! What is shown is computed by `control` and handed over as `api` structs.
