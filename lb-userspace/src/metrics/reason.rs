//! Free text as a label: whoever writes it, only few values may come of it, since each is a time series for ever.

/// The longest label, in bytes.
const MOST: usize = 64;

/// A reason in few words. What a backend may have said itself, behind a quotation mark or a bracket, is cut off; numbers
/// become `#` where they are not a status code; so are characters that are not plain text.
pub(super) fn label(text: &str) -> String {
    const QUOTES: [char; 6] = ['`', '"', '\'', '(', '[', '{'];
    let text = &text[..text.find(QUOTES).unwrap_or(text.len())];
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if out.len() >= MOST {
            break;
        }
        if c.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let status = end <= 3 && out.ends_with("status ");
            out.push_str(if status { &rest[..end] } else { "#" });
            rest = &rest[end..];
            if status {
                // What follows is the backend's own.
                break;
            }
            continue;
        }
        if out.ends_with("status ") {
            break;
        }
        out.push(if c.is_ascii_graphic() || c == ' ' { c } else { '?' });
        rest = &rest[c.len_utf8()..];
    }
    out.trim_end_matches([' ', ':', ',', '-']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn few_values_come_of_what_checks_say() {
        for (text, want) in [
            ("answers well", "answers well"),
            ("Connection refused", "Connection refused"),
            ("HTTP status 503", "HTTP status 503"),
            ("no answer within 150ms", "no answer within #ms"),
            ("no answer within 1.5s", "no answer within #.#s"),
            (
                "answers well again, held out for flapping for 12 s more",
                "answers well again, held out for flapping for # s more",
            ),
            ("wrong body `id 7f3a`", "wrong body"),
            ("gRPC status 14 (upstream 10.0.0.9 down)", "gRPC status 14"),
            ("gRPC status x9", "gRPC status"),
            ("gRPC status 12345", "gRPC status #"),
            (
                "TLS: invalid peer certificate: certificate not valid for name \"a\"; only for b",
                "TLS: invalid peer certificate: certificate not valid for name",
            ),
            ("", ""),
            ("a\nb\u{7}é", "a?b??"),
        ] {
            assert_eq!(label(text), want, "{text:?}");
        }
        let long = label(&"x".repeat(500));
        assert_eq!(long.len(), super::MOST);
    }
}
