//! Words of an expression.

use super::BadExpression;

/// One word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    Int(i64),
    Double(f64),
    /// `&&`, `==`, `.`, `(` and so on.
    Sign(&'static str),
}

/// A word and where it is.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) token: Token,
    /// In characters from 1.
    pub(super) column: usize,
}

/// Longer ones first.
const SIGNS: [&str; 22] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ".", ",", "?", ":", "-",
    "+", "*", "/", "%",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, BadExpression> {
    let letters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(letter) = letters.get(at).copied() {
        let rest = letters.get(at..).unwrap_or_default();
        let (token, length) = match letter {
            ' ' | '\t' | '\r' | '\n' => {
                at += 1;
                continue;
            }
            '\'' | '"' => string(rest, letter).map_err(|reason| bad(at, reason))?,
            '0'..='9' => figure(rest).map_err(|reason| bad(at, reason))?,
            'a'..='z' | 'A'..='Z' | '_' => {
                let name: String = rest
                    .iter()
                    .take_while(|c| c.is_ascii_alphanumeric() || **c == '_')
                    .collect();
                let length = name.len();
                (Token::Name(name), length)
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| {
                    sign.chars().zip(rest).filter(|(a, b)| a == *b).count() == sign.len()
                });
                let sign = sign.ok_or_else(|| bad(at, format!("{letter:?} is not understood")))?;
                (Token::Sign(sign), sign.len())
            }
        };
        found.push(Placed {
            token,
            column: at + 1,
        });
        at += length;
    }
    Ok(found)
}

fn bad(at: usize, reason: String) -> BadExpression {
    BadExpression {
        column: at + 1,
        reason,
    }
}

fn string(rest: &[char], quote: char) -> Result<(Token, usize), String> {
    let mut text = String::new();
    let mut letters = rest.iter().enumerate().skip(1);
    while let Some((at, letter)) = letters.next() {
        match *letter {
            '\\' => {
                let escaped = letters.next().map(|(_, letter)| *letter);
                text.push(match escaped {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some(same @ ('\\' | '\'' | '"' | '?' | '`')) => same,
                    _ => {
                        return Err(
                            "unknown escape in a string; write \\\\ for a backslash".to_owned()
                        );
                    }
                });
            }
            '\n' => break,
            letter if letter == quote => return Ok((Token::Text(text), at + 1)),
            letter => text.push(letter),
        }
    }
    Err(format!("the string has no closing {quote}"))
}

fn figure(rest: &[char]) -> Result<(Token, usize), String> {
    let mut text = String::new();
    let mut dotted = false;
    for (at, letter) in rest.iter().enumerate() {
        let digit_follows = rest.get(at + 1).is_some_and(char::is_ascii_digit);
        match letter {
            '0'..='9' => text.push(*letter),
            '.' if !dotted && digit_follows => {
                dotted = true;
                text.push('.');
            }
            _ => break,
        }
    }
    let length = text.len();
    let wrong = || format!("{text} is not a number that is understood");
    let token = if dotted {
        Token::Double(text.parse().map_err(|_| wrong())?)
    } else {
        Token::Int(text.parse().map_err(|_| wrong())?)
    };
    // `1u` is CEL's unsigned one.
    let length = length + usize::from(!dotted && rest.get(length) == Some(&'u'));
    Ok((token, length))
}
