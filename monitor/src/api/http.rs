//! HTTP/1.1 as far as an API over a Unix socket needs it: requests with a body
//! of a stated length, answers with one (RFC 9112).

use std::fmt::Write as _;

use serde_json::Value;

/// The most bytes of a request's line and headers.
pub const MAX_HEAD: usize = 8 << 10;
/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// What may be done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Read it.
    Get,
    /// Make it, or do it.
    Put,
    /// Change it.
    Patch,
}

impl Method {
    /// As Firecracker's log spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "Get",
            Self::Put => "Put",
            Self::Patch => "Patch",
        }
    }
}

/// A request, whole.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// To what: the path, without a query.
    pub path: String,
    /// Its body; may be empty.
    pub body: Vec<u8>,
    /// Whether the connection stays open.
    pub keep: bool,
}

/// What the bytes of a connection are so far.
#[derive(Debug)]
pub enum Parsed {
    /// The beginning of a request; whether the client waits for leave to send
    /// its body (RFC 9110, 10.1.1).
    Part(bool),
    /// A request, and how many bytes it took.
    Whole(Request, usize),
    /// No request: why.
    Bad(String),
}

/// Parses the first request in `bytes`, whose body may have `max_body` bytes.
pub fn parse(bytes: &[u8], max_body: usize) -> Parsed {
    // An empty line before a request is no mistake (RFC 9112, 2.2).
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Parsed::Part(false),
        Ok(_) => return Parsed::Bad(format!("Headers of more than {MAX_HEAD} bytes.")),
        Err(error) => return Parsed::Bad(format!("This is not HTTP: {error}.")),
    };
    let parsed = match RequestHead::parse(&head, max_body) {
        Ok(parsed) => parsed,
        Err(why) => return Parsed::Bad(why),
    };
    let end = length.saturating_add(parsed.body);
    let Some(body) = bytes.get(length..end) else {
        return Parsed::Part(parsed.expects);
    };
    let path = head.path.unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let request = Request {
        method: parsed.method,
        path: path.to_owned(),
        body: body.to_vec(),
        keep: parsed.keep,
    };
    Parsed::Whole(request, end)
}

/// What a request's line and headers say.
struct RequestHead {
    method: Method,
    body: usize,
    expects: bool,
    keep: bool,
}

impl RequestHead {
    fn parse(head: &httparse::Request, max_body: usize) -> Result<Self, String> {
        let method = match head.method {
            Some("GET") => Method::Get,
            Some("PUT") => Method::Put,
            Some("PATCH") => Method::Patch,
            other => {
                let name = other.unwrap_or_default();
                return Err(format!("Unsupported HTTP method {name}."));
            }
        };
        let mut parsed = Self { method, body: 0, expects: false, keep: head.version == Some(1) };
        let mut lengths = 0;
        for header in head.headers.iter() {
            let value = str::from_utf8(header.value).unwrap_or_default().trim();
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                lengths += 1;
                parsed.body = length(value, max_body)?;
            } else if is("transfer-encoding") {
                return Err("Transfer-Encoding is not supported, Content-Length is.".to_owned());
            } else if is("expect") {
                if !value.eq_ignore_ascii_case("100-continue") {
                    return Err("Unsupported Expect header.".to_owned());
                }
                parsed.expects = true;
            } else if is("connection") {
                let has = |word| value.split(',').any(|w| w.trim().eq_ignore_ascii_case(word));
                parsed.keep = has("keep-alive") || parsed.keep && !has("close");
            }
        }
        // Two that differ are how requests are smuggled (RFC 9112, 11.2).
        if lengths > 1 {
            return Err("More than one Content-Length.".to_owned());
        }
        Ok(parsed)
    }
}

fn length(value: &str, max: usize) -> Result<usize, String> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err("Content-Length is not a number.".to_owned());
    }
    // More digits than a number has are too many bytes, too.
    match value.parse() {
        Ok(length) if length <= max => Ok(length),
        _ => Err(format!(
            "Request payload with size {value} is larger than the limit of {max} allowed by server."
        )),
    }
}

/// The interim answer to a client that waits before it sends a body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// The type of its body.
    pub kind: &'static str,
    /// Its body.
    pub body: Vec<u8>,
}

/// A value without the keys whose value is null.
fn stated(value: Value) -> Value {
    match value {
        Value::Array(all) => all.into_iter().map(stated).collect(),
        Value::Object(all) => {
            let all = all.into_iter().filter(|(_, value)| !value.is_null());
            all.map(|(key, value)| (key, stated(value))).collect()
        }
        other => other,
    }
}

/// The usual type of a body.
const JSON: &str = "application/json";

impl Response {
    /// It was done.
    pub fn done() -> Self {
        Self { status: 204, kind: JSON, body: Vec::new() }
    }

    /// The response as JSON, without keys that have no value.
    pub fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_value(value).map(stated) {
            Ok(value) => Self { status: 200, kind: JSON, body: value.to_string().into_bytes() },
            // None of the types here fails.
            Err(error) => Self::fault(&error.to_string()),
        }
    }

    /// The response as text of a type.
    pub fn text(kind: &'static str, text: String) -> Self {
        Self { status: 200, kind, body: text.into_bytes() }
    }

    /// It cannot be done: why.
    pub fn fault(why: &str) -> Self {
        let body = serde_json::json!({ "fault_message": why });
        Self { status: 400, kind: JSON, body: body.to_string().into_bytes() }
    }

    /// Appends the answer as it is sent; whether the connection stays open.
    pub fn write(&self, to: &mut Vec<u8>, keep: bool) {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            _ => "Bad Request",
        };
        let mut head = format!("HTTP/1.1 {} {reason}\r\nServer: Mote\r\n", self.status);
        let connection = if keep { "keep-alive" } else { "close" };
        // Writing to a String cannot fail.
        let _ = write!(head, "Connection: {connection}\r\n");
        // RFC 9110, 8.6: none with 204.
        if self.status != 204 {
            let (kind, length) = (self.kind, self.body.len());
            let _ = write!(head, "Content-Type: {kind}\r\nContent-Length: {length}\r\n");
        }
        head.push_str("\r\n");
        to.extend_from_slice(head.as_bytes());
        to.extend_from_slice(&self.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> (Request, usize) {
        match parse(text.as_bytes(), 100) {
            Parsed::Whole(request, used) => (request, used),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn requests() {
        let (request, used) = whole("GET /vm/config?x=1 HTTP/1.1\r\nHost: a\r\n\r\nGET");
        assert_eq!((request.method, used), (Method::Get, 40));
        assert_eq!((request.path.as_str(), request.keep), ("/vm/config", true));
        let (request, _) = whole("PUT / HTTP/1.1\r\ncontent-LENGTH: 2\r\n\r\n{}rest");
        assert_eq!(request.body, b"{}");
        for (text, keep) in [
            ("HTTP/1.0\r\n\r\n", false),
            ("HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("HTTP/1.1\r\nConnection: close\r\n\r\n", false),
        ] {
            assert_eq!(whole(&format!("GET / {text}")).0.keep, keep, "{text}");
        }
    }

    /// Byte by byte: nothing before the end is whole or bad.
    #[test]
    fn a_request_may_come_in_pieces() {
        let text = b"\r\nPUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..text.len() {
            let expects = end >= text.len() - 3;
            match parse(&text[..end], 100) {
                Parsed::Part(told) => assert_eq!(told, expects, "{end}"),
                other => panic!("{end}: {other:?}"),
            }
        }
        assert!(matches!(parse(text, 3), Parsed::Whole(_, used) if used == text.len()));
    }

    #[test]
    fn what_is_refused() {
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
        for (text, word) in [
            ("hello\r\n\r\n", "not HTTP"),
            ("GET / HTTP/2.0\r\n\r\n", "not HTTP"),
            ("POST / HTTP/1.1\r\n\r\n", "method POST"),
            ("PUT / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", "size 101"),
            ("PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "not a number"),
            ("PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "not a number"),
            ("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", "larger"),
            ("PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "More than one"),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
            ("PUT / HTTP/1.1\r\nExpect: more\r\n\r\n", "Expect"),
            (&long, "more than 8192"),
            (&many, "not HTTP"),
        ] {
            match parse(text.as_bytes(), 100) {
                Parsed::Bad(why) => assert!(why.contains(word), "{text}: {why}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(parse(&[b'\r'; MAX_HEAD + 1], 9), Parsed::Bad(_)));
    }

    #[test]
    fn answers() {
        let mut sent = Vec::new();
        Response::done().write(&mut sent, true);
        Response::fault("a \"b\"").write(&mut sent, false);
        let text = String::from_utf8(sent).unwrap();
        let (done, fault) = text.split_once("\r\n\r\n").unwrap();
        assert!(done.starts_with("HTTP/1.1 204 ") && !done.contains("Length"));
        let body = r#"{"fault_message":"a \"b\""}"#;
        assert!(fault.contains(&format!("Content-Length: {}\r\n\r\n{body}", body.len())));
        assert!(fault.contains("Connection: close\r\n"));
    }
}
