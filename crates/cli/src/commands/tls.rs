//! `evenkeel tls`: a cluster's own certificate authority, and a look at certificates.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use evenkeel_security::{Certificate, Shown};
use ring::digest;
use serde_json::{Value, json};

use crate::cluster::connection::Connection;
use crate::commands::authority::{Authority, Wanted};
use crate::output::format::{Output, PrintArgs};
use crate::output::outcome::{EXIT_UNHEALTHY, Failure, note, print};

/// How this machine is dialled by itself.
const LOCAL_HOSTS: &str = "localhost,127.0.0.1,::1";
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Args, Debug)]
pub struct TlsArgs {
    #[command(subcommand)]
    command: TlsCommand,
}

#[derive(Debug, Subcommand)]
enum TlsCommand {
    /// Make an authority, and certificates for brokers, gateways and an operator
    Init(InitArgs),
    /// Issue one more certificate, or renew one with --replace
    Issue(IssueArgs),
    /// Show a certificate, from a file or as a server shows it; exits 10 when it is not valid now
    Inspect(InspectArgs),
}

#[derive(Args, Debug)]
struct InitArgs {
    /// Folder for all files; ca.key in it signs certificates, so keep it off the servers
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Names and addresses of a broker, comma-separated; once for each broker, in order of node id
    #[arg(long = "broker", value_name = "HOST,…", default_values = [LOCAL_HOSTS, LOCAL_HOSTS, LOCAL_HOSTS])]
    brokers: Vec<String>,
    /// Names and addresses of a gateway, comma-separated; once for each gateway
    #[arg(long = "gateway-host", value_name = "HOST,…", default_values = [LOCAL_HOSTS])]
    gateways: Vec<String>,
    /// How long the certificates are valid, such as 90d; the authority is for ten years
    #[arg(long, default_value = "397d", value_name = "DURATION", value_parser = duration)]
    valid_for: Duration,
    #[command(flatten)]
    shown: PrintArgs,
}

#[derive(Args, Debug)]
struct IssueArgs {
    /// Folder of the authority
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Whose certificate; its files are NAME.crt and NAME.key
    name: String,
    /// What the holder is or may do
    #[arg(long = "role", required = true, value_delimiter = ',', value_enum)]
    roles: Vec<CertificateRole>,
    /// Names and addresses under which it is dialled; none for mere callers
    #[arg(long = "host", value_delimiter = ',', value_name = "HOST")]
    hosts: Vec<String>,
    /// How long it is valid, such as 90d
    #[arg(long, default_value = "397d", value_name = "DURATION", value_parser = duration)]
    valid_for: Duration,
    /// Replace a certificate of this name; processes that use it take the new one up by themselves
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    shown: PrintArgs,
}

#[derive(Args, Debug)]
struct InspectArgs {
    /// PEM file, or HOST:PORT of a server
    #[arg(value_name = "FILE|HOST:PORT")]
    what: String,
    /// table tells a person, json prints one object
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CertificateRole {
    /// A broker of the cluster
    Broker,
    /// A gateway of the cluster
    Gateway,
    /// A caller who may look
    Read,
    /// A caller who may change records
    Write,
    /// A caller who may rebalance, drain and pause
    Operate,
}

impl CertificateRole {
    fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Gateway => "gateway",
            Self::Read => "read",
            Self::Write => "write",
            Self::Operate => "operate",
        }
    }
}

/// Longer than anybody waits for a certificate to expire.
const VALID_FOR_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

fn duration(text: &str) -> Result<Duration, String> {
    let given = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match given {
        given if given < Duration::from_secs(1) || given > VALID_FOR_MAX => {
            Err("give a second to ten years, such as 90d".into())
        }
        given => Ok(given),
    }
}

pub async fn run(args: TlsArgs, connection: &Connection) -> Result<(), Failure> {
    match args.command {
        TlsCommand::Init(args) => init(&args),
        TlsCommand::Issue(args) => issue(&args),
        TlsCommand::Inspect(args) => inspect(&args, connection).await,
    }
}

fn hosts(text: &str) -> Vec<String> {
    text.split(',').map(|host| host.trim().to_owned()).collect()
}

fn init(args: &InitArgs) -> Result<(), Failure> {
    let authority = Authority::create(&args.folder, "Evenkeel cluster authority")?;
    let brokers =
        args.brokers.iter().enumerate().map(|(node, hosts)| (format!("broker-{node}"), hosts, "broker"));
    let gateways = args
        .gateways
        .iter()
        .enumerate()
        .map(|(number, hosts)| (format!("gateway-{number}"), hosts, "gateway"));
    let mut made = vec![args.folder.join("ca.crt")];
    for (name, text, role) in brokers.chain(gateways) {
        let wanted = Wanted { name: &name, hosts: &hosts(text), roles: &[role], valid_for: args.valid_for };
        made.push(authority.issue(&wanted, false)?);
    }
    let wanted = Wanted { name: "operator", hosts: &[], roles: &["operate"], valid_for: args.valid_for };
    made.push(authority.issue(&wanted, false)?);
    args.shown.output.show(|| listed(&made), || json!({"files": made}))?;
    let folder = args.folder.display();
    note(format_args!(
        "every certificate has its key beside it. On each machine: ca.crt and its own two files, named in [tls].\n\
         Keep {folder}/ca.key away from the servers: who has it can make certificates.\n\
         More, or new ones before these expire: evenkeel tls issue {folder} NAME --role ROLE --host HOST [--replace]"
    ));
    Ok(())
}

fn issue(args: &IssueArgs) -> Result<(), Failure> {
    let roles: Vec<&'static str> = args.roles.iter().map(|role| role.name()).collect();
    if let (true, Some(role)) =
        (args.hosts.is_empty(), roles.iter().find(|role| ["broker", "gateway"].contains(role)))
    {
        return Err(Failure::usage(format!(
            "--role {role}: others dial it, so its certificate needs their names for it; give --host"
        )));
    }
    let wanted = Wanted { name: &args.name, hosts: &args.hosts, roles: &roles, valid_for: args.valid_for };
    let made = [Authority::open(&args.folder).issue(&wanted, args.replace)?];
    args.shown.output.show(|| listed(&made), || json!({"files": made}))
}

/// One a line.
fn listed(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join("\n")
}

async fn inspect(args: &InspectArgs, connection: &Connection) -> Result<(), Failure> {
    let shown = look(&args.what).await?;
    let parsed: Vec<(Certificate, String)> = shown
        .certificates()
        .map(|der| Certificate::parse(der).map(|read| (read, fingerprint(der))))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(1, format!("{}: {error}", args.what)))?;
    let distrusted = match &connection.ca {
        Some(authority) => {
            let found = shown.distrusted_by(authority).map_err(|error| Failure::usage(error.to_string()))?;
            Some(found)
        }
        None => None,
    };
    let now = SystemTime::now();
    match args.output {
        Output::Table | Output::Wide => {
            for (certificate, fingerprint) in &parsed {
                print(to_text(certificate, fingerprint, now))?;
            }
            match (&connection.ca, &distrusted) {
                (Some(authority), Some(None)) => print(format!("trusted      by {}", authority.display()))?,
                (Some(authority), Some(Some(problem))) => {
                    print(format!("trusted      no, by {}: {problem}", authority.display()))?;
                }
                _ => {}
            }
        }
        data => {
            let certificates: Vec<Value> =
                parsed.iter().map(|(certificate, print)| to_json(certificate, print, now)).collect();
            let trusted =
                distrusted.as_ref().map(|problem| json!({"trusted": problem.is_none(), "problem": problem}));
            data.print(json!({"certificates": certificates, "authority": trusted}))?;
        }
    }
    if parsed.first().is_some_and(|(own, _)| own.not_after < now || own.not_before > now)
        || distrusted.flatten().is_some()
    {
        return Err(Failure::new(
            EXIT_UNHEALTHY,
            format!(
                "{}: nobody would accept this certificate; issue a new one with `evenkeel tls issue`",
                args.what
            ),
        ));
    }
    Ok(())
}

async fn look(what: &str) -> Result<Shown, Failure> {
    let path = PathBuf::from(what);
    let server = what.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match server {
        Some((host, port)) if !path.exists() => {
            let host = host.trim_start_matches("https://").trim_matches(['[', ']']);
            Shown::by_server(host, port).await.map_err(|error| {
                let problem =
                    evenkeel_security::tls_problem(&error).map_or(error.to_string(), |p| p.sentence);
                Failure::unreachable(format!("{what}: {problem}; is that a port with TLS?"))
            })
        }
        _ => Shown::by_file(&path).map_err(|error| {
            Failure::usage(format!(
                "{what}: {}; name a PEM file with a certificate, or HOST:PORT",
                error.problem
            ))
        }),
    }
}

fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// `12 days left`, or what is wrong.
fn remaining(certificate: &Certificate, now: SystemTime) -> String {
    match certificate.not_after.duration_since(now) {
        _ if certificate.not_before > now => "not valid yet".into(),
        Err(_) => "EXPIRED".into(),
        Ok(left) if left >= DAY * 2 => format!("{} days left", left.as_secs() / DAY.as_secs()),
        Ok(left) => {
            let whole = Duration::from_secs(left.as_secs());
            format!("{} left", humantime::format_duration(whole))
        }
    }
}

fn names(certificate: &Certificate) -> Vec<String> {
    let addresses = certificate.addresses.iter().map(ToString::to_string);
    certificate.dns_names.iter().cloned().chain(addresses).collect()
}

/// What it says its holder is and may do.
fn roles(certificate: &Certificate) -> Vec<String> {
    let cluster = certificate.cluster_role().map(|role| role.name().to_owned());
    let caller = Some(certificate.roles()).filter(|roles| !roles.is_empty()).map(|roles| roles.to_string());
    cluster.into_iter().chain(caller).collect()
}

fn to_text(certificate: &Certificate, fingerprint: &str, now: SystemTime) -> String {
    let time = |at| humantime::format_rfc3339_seconds(at).to_string();
    let or_none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let roles = if certificate.is_authority { vec!["authority".to_owned()] } else { roles(certificate) };
    format!(
        "subject      {}\nissuer       {}\nnames        {}\nroles        {}\nvalid        {} to {} ({})\n\
         fingerprint  sha256 {fingerprint}\n",
        certificate.subject,
        certificate.issuer,
        or_none(names(certificate)),
        or_none(roles),
        time(certificate.not_before),
        time(certificate.not_after),
        remaining(certificate, now),
    )
}

fn to_json(certificate: &Certificate, fingerprint: &str, now: SystemTime) -> Value {
    let time = |at| humantime::format_rfc3339_seconds(at).to_string();
    json!({
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "names": names(certificate),
        "roles": roles(certificate),
        "isAuthority": certificate.is_authority,
        "notBefore": time(certificate.not_before),
        "notAfter": time(certificate.not_after),
        "valid": certificate.not_before <= now && now <= certificate.not_after,
        "sha256": fingerprint,
    })
}
