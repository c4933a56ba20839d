//! Readiness: what a start is measured to. The same probe on every subject.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use regex_lite::Regex;

use crate::error::{Error, Result};

/// When a start counts as done.
#[derive(Debug, Clone)]
pub enum Probe {
    /// The command has returned: the program has run to its end.
    Exit,
    /// The program has been executed.
    Exec,
    /// A GET of this path on this port is answered with a status below 400.
    Http {
        /// Port in the container.
        port: u16,
        /// Path with its slash.
        path: String,
    },
    /// This port takes a connection.
    Tcp {
        /// Port in the container.
        port: u16,
    },
    /// A line of its output matches.
    Log(Regex),
}

impl std::str::FromStr for Probe {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason: &str| Error::invalid("--ready", text, reason);
        let port = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| wrong("the port must be from 1 to 65535"))
        };
        match text.split_once(':') {
            None if text == "exit" => Ok(Self::Exit),
            None if text == "exec" => Ok(Self::Exec),
            Some(("tcp", rest)) => Ok(Self::Tcp { port: port(rest)? }),
            Some(("http", rest)) => {
                let (number, path) = rest.split_once('/').unwrap_or((rest, ""));
                if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return Err(wrong("a path has no spaces: write %20"));
                }
                Ok(Self::Http { port: port(number)?, path: format!("/{path}") })
            }
            Some(("log", pattern)) if !pattern.is_empty() => {
                Regex::new(pattern).map(Self::Log).map_err(|error| wrong(&error.to_string()))
            }
            _ => Err(wrong("give exit, exec, http:PORT[/path], tcp:PORT or log:REGEX")),
        }
    }
}

impl Probe {
    /// The port that it asks for.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Http { port, .. } | Self::Tcp { port } => Some(*port),
            Self::Exit | Self::Exec | Self::Log(_) => None,
        }
    }

    /// Whether the command stays in the foreground, so that its end or its output can be seen.
    pub fn is_attached(&self) -> bool {
        matches!(self, Self::Exit | Self::Log(_))
    }

    /// What has not happened when time is up.
    pub fn missed(&self) -> String {
        match self {
            Self::Exit => "it did not end".to_owned(),
            Self::Exec => "its program was not executed".to_owned(),
            Self::Http { port, path } => {
                format!("port {port} did not answer GET {path} with a status below 400")
            }
            Self::Tcp { port } => format!("port {port} took no connection"),
            Self::Log(regex) => format!("no line of its output matched {:?}", regex.as_str()),
        }
    }

    /// Asks once over the network; whether it is ready. `patience` bounds the connection's making: a packet to a guest that does not listen
    /// yet may be lost, and the kernel would send it again only after a second.
    /// `answer` bounds the wait for what it says then.
    pub fn ask(&self, address: SocketAddr, patience: Duration, answer: Duration) -> Answer {
        let Ok(stream) = TcpStream::connect_timeout(&address, patience) else { return Answer::Not };
        let ready = match self {
            Self::Http { path, .. } => http_is_ready(stream, address, path, answer),
            _ => Ok(true),
        };
        match ready {
            Ok(true) => Answer::Ready,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Answer::Late,
            Ok(false) | Err(_) => Answer::Not,
        }
    }
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is ready.
    Ready,
    /// It is not.
    Not,
    /// It took the connection and said nothing in time.
    Late,
}

fn http_is_ready(
    mut stream: TcpStream,
    address: SocketAddr,
    path: &str,
    answer: Duration,
) -> std::io::Result<bool> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(answer))?;
    stream.set_write_timeout(Some(answer))?;
    // 1.0: the server closes the connection, no chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n", address.ip())?;
    let mut head = Vec::new();
    let mut chunk = [0; 512];
    while !head.contains(&b'\n') && head.len() < 4096 {
        match stream.read(&mut chunk)? {
            0 => break,
            count => head.extend_from_slice(&chunk[..count]),
        }
    }
    Ok(status(&head).is_some_and(|status| status < 400))
}

/// The status code of an answer (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r' || *byte == b'\n').next()?).ok()?;
    let (version, rest) = line.split_once(' ')?;
    version.starts_with("HTTP/").then(|| rest.get(..3)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    #[test]
    fn probes_are_read() {
        let show = |text: &str| match text.parse::<Probe>().unwrap() {
            Probe::Http { port, path } => format!("{port} {path}"),
            Probe::Tcp { port } => format!("{port}"),
            Probe::Log(regex) => regex.as_str().to_owned(),
            Probe::Exit => "exit".to_owned(),
            Probe::Exec => "exec".to_owned(),
        };
        assert_eq!(show("http:80"), "80 /");
        assert_eq!(show("http:8080/health/x"), "8080 /health/x");
        assert_eq!(show("tcp:5432"), "5432");
        assert_eq!(show("log:ready: [0-9]+"), "ready: [0-9]+");
        assert_eq!((show("exit"), show("exec")), ("exit".to_owned(), "exec".to_owned()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "http", "http:", "http:0", "http:70000", "tcp:x", "log:", "log:[", "http:80/a b", "exit:1"]
        {
            assert!(text.parse::<Probe>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_is_judged_by_its_status() {
        for (answer, ready) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 301 Moved\r\n\r\n", true),
            ("HTTP/1.1 503 Not yet\r\n\r\n", false),
            ("SSH-2.0-x\r\n", false),
            ("", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // All of it: closing with bytes unread would reset the connection, answer and all.
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut part = [0; 512];
                    let count = stream.read(&mut part).unwrap();
                    request.extend_from_slice(&part[..count]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&request).into_owned()
            });
            let probe: Probe = "http:80/x".parse().unwrap();
            let wanted = if ready { Answer::Ready } else { Answer::Not };
            assert_eq!(probe.ask(address, LONG, LONG), wanted, "{answer:?}");
            assert!(server.join().unwrap().starts_with("GET /x HTTP/1.0\r\n"));
        }
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!("tcp:1".parse::<Probe>().unwrap().ask(closed, LONG, LONG), Answer::Not);
    }

    #[test]
    fn a_server_that_says_nothing_is_late() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probe: Probe = "http:80".parse().unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe.ask(address, LONG, Duration::from_millis(20)), Answer::Late);
    }
}
