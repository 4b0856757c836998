//! git over HTTPS as it is really served: `git http-backend` behind nginx and fcgiwrap, with Basic.
//!
//! ```text
//!   client ── TLS, h1 or h2 ──► nginx ── auth_basic, then FastCGI ──► fcgiwrap ──► git http-backend ──► bare repository
//! ```
//!
//! Both servers get their listening socket as standard input (nginx by its upgrade variable), already bound:
//! no port is guessed, nothing is waited for. nginx has a prefix of its own, so that it reads no file of the
//! system's nginx, and keeps its master process: without one it dies of an inherited socket (1.22).

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use crate::ca::Ca;

/// A request as nginx logged it.
#[derive(Debug, Clone, Deserialize)]
pub struct GitRequest {
    /// Request method.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// Status of the answer.
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// `Authorization`, as sent; empty when absent.
    pub authorization: String,
    /// `Proxy-Authorization`, `Via` and `Forwarded`, joined; must be empty.
    pub proxy: String,
}

/// A running git server with one repository, `ada/demo.git`, of one commit. Ends when dropped.
pub struct GitServer {
    dir: TempDir,
    addr: SocketAddr,
    nginx: Child,
    fcgiwrap: Child,
}

impl GitServer {
    /// Serves `host` with a leaf of `ca`, to whoever sends `user` and `password` by Basic (RFC 7617).
    ///
    /// # Errors
    /// When git, nginx or fcgiwrap is not installed (the message says which), or does not start.
    pub fn start(host: &str, user: &str, password: &str, ca: &Ca) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("writ-git-").tempdir()?;
        let backend = backend()?;
        seed(dir.path())?;
        let (cert, key) = ca.leaf_pem(host)?;
        std::fs::write(dir.path().join("leaf.pem"), cert)?;
        std::fs::write(dir.path().join("leaf.key"), key)?;
        std::fs::write(dir.path().join("htpasswd"), format!("{user}:{{PLAIN}}{password}\n"))?;
        let fcgi = UnixListener::bind(dir.path().join("fcgi.sock"))?;
        let fcgiwrap = Command::new("fcgiwrap")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir.path())
            .stdin(Stdio::from(OwnedFd::from(fcgi)))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("fcgiwrap.log"))?)
            .spawn()
            .map_err(|fault| missing("fcgiwrap", &fault))?;
        let mut fcgiwrap = Ended(Some(fcgiwrap));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        std::fs::write(dir.path().join("nginx.conf"), nginx_conf(dir.path(), addr, &backend))?;
        let nginx = Command::new(nginx_path())
            .env_clear()
            .env("NGINX", "0;")
            .args(["-e", "error.log", "-c", "nginx.conf", "-p"])
            .arg(dir.path())
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("nginx.log"))?)
            .spawn()
            .map_err(|fault| missing("nginx", &fault))?;
        let fcgiwrap = fcgiwrap.0.take().ok_or_else(|| io::Error::other("fcgiwrap is gone"))?;
        Ok(Self { dir, addr, nginx, fcgiwrap })
    }

    /// Where it listens for TLS.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The bare repository.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.dir.path().join("root/ada/demo.git")
    }

    /// The subjects of `branch`'s commits on the server, newest first.
    ///
    /// # Errors
    /// When git fails, for one because the branch is not there.
    pub fn subjects(&self, branch: &str) -> io::Result<Vec<String>> {
        let out = git(&self.repository(), &["log", "--format=%s", branch, "--"])?;
        Ok(String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect())
    }

    /// Ends both servers and returns what nginx logged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn finish(mut self) -> io::Result<Vec<GitRequest>> {
        self.stop();
        let log = std::fs::read_to_string(self.dir.path().join("access.log"))?;
        log.lines().map(|line| serde_json::from_str(line).map_err(io::Error::other)).collect()
    }

    /// The logs of the servers' own troubles, for the message of a failed test.
    #[must_use]
    pub fn troubles(&self) -> String {
        let read = |name: &str| {
            let mut text = String::new();
            let file = std::fs::File::open(self.dir.path().join(name));
            let _ = file.and_then(|mut f| f.read_to_string(&mut text));
            text
        };
        ["nginx.log", "error.log", "fcgiwrap.log"].map(read).concat()
    }

    fn stop(&mut self) {
        for child in [&mut self.nginx, &mut self.fcgiwrap] {
            if let (Ok(None), Some(pid)) =
                (child.try_wait(), i32::try_from(child.id()).ok().and_then(Pid::from_raw))
            {
                let _ = kill_process(pid, Signal::TERM);
            }
            let _ = child.wait();
        }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends a child on an early return.
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn nginx_path() -> &'static Path {
    // Debian keeps it where an ordinary user's PATH does not look.
    let sbin = Path::new("/usr/sbin/nginx");
    if sbin.is_file() { sbin } else { Path::new("nginx") }
}

fn missing(program: &str, fault: &io::Error) -> io::Error {
    io::Error::other(format!(
        "the git suite needs `{program}`, which did not start ({fault}): install the packages nginx, fcgiwrap and git"
    ))
}

fn backend() -> io::Result<PathBuf> {
    let out = Command::new("git").arg("--exec-path").output().map_err(|fault| missing("git", &fault))?;
    let path = Path::new(String::from_utf8_lossy(&out.stdout).trim()).join("git-http-backend");
    if path.is_file() { Ok(path) } else { Err(missing("git http-backend", &io::ErrorKind::NotFound.into())) }
}

/// Makes the bare repository with its first commit.
fn seed(dir: &Path) -> io::Result<()> {
    let bare = dir.join("root/ada/demo.git");
    let work = dir.join("seed");
    std::fs::create_dir_all(&bare)?;
    std::fs::create_dir_all(&work)?;
    git(&bare, &["init", "--quiet", "--bare", "--initial-branch=main", "."])?;
    git(&work, &["init", "--quiet", "--initial-branch=main", "."])?;
    std::fs::write(work.join("README.md"), "# demo\n")?;
    git(&work, &["add", "README.md"])?;
    git(&work, &["commit", "--quiet", "-m", "demo: begin"])?;
    git(&work, &["push", "--quiet", &bare.display().to_string(), "main"])?;
    Ok(())
}

fn git(dir: &Path, args: &[&str]) -> io::Result<Output> {
    let out = Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "ada"), ("GIT_AUTHOR_EMAIL", "ada@example.com")])
        .envs([("GIT_COMMITTER_NAME", "ada"), ("GIT_COMMITTER_EMAIL", "ada@example.com")])
        .arg("-C")
        .arg(dir)
        .args(args)
        .output()
        .map_err(|fault| missing("git", &fault))?;
    if out.status.success() {
        return Ok(out);
    }
    Err(io::Error::other(format!("git {args:?}: {}", String::from_utf8_lossy(&out.stderr))))
}

fn nginx_conf(dir: &Path, addr: SocketAddr, backend: &Path) -> String {
    let dir = dir.display();
    let backend = backend.display();
    // As root, nginx would give its worker to an account that cannot read the test's files.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    format!(
        r#"{user}daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 128; }}
http {{
  log_format seen escape=json '{{"method":"$request_method","uri":"$request_uri","status":$status,'
    '"protocol":"$server_protocol","authorization":"$http_authorization",'
    '"proxy":"$http_proxy_authorization$http_via$http_forwarded"}}';
  access_log {dir}/access.log seen;
  client_max_body_size 64m;
  client_body_temp_path {dir}/body;
  fastcgi_temp_path {dir}/fastcgi;
  proxy_temp_path {dir}/proxy;
  scgi_temp_path {dir}/scgi;
  uwsgi_temp_path {dir}/uwsgi;
  server {{
    listen {addr} ssl http2;
    ssl_certificate {dir}/leaf.pem;
    ssl_certificate_key {dir}/leaf.key;
    location / {{
      auth_basic "git";
      auth_basic_user_file {dir}/htpasswd;
      fastcgi_pass unix:{dir}/fcgi.sock;
      fastcgi_param SCRIPT_FILENAME {backend};
      fastcgi_param GIT_PROJECT_ROOT {dir}/root;
      fastcgi_param GIT_HTTP_EXPORT_ALL 1;
      fastcgi_param GIT_PROTOCOL $http_git_protocol;
      fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param SERVER_PROTOCOL $server_protocol;
    }}
  }}
}}
"#
    )
}
