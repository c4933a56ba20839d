//! Flags of the network.

use std::net::IpAddr;

use anyhow::{Result, bail};
use oci_spec::image::Config;
use rkvm_engine::record::NetworkConfig;
use rkvm_engine::{Engine, network, options};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct NetworkFlags {
    /// How the container is connected: bridge | none | host | container:NAME
    #[arg(long, visible_alias = "net", default_value = "bridge", value_name = "NETWORK")]
    network: String,
    /// Publish a port on the host: [[IP:]HOST-PORT:]CONTAINER-PORT[/tcp|/udp], ranges too
    #[arg(short, long = "publish", value_name = "PORT")]
    publish: Vec<String>,
    /// Publish every port that the image exposes, on free ports of the host
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Name a port that the container listens on
    #[arg(long = "expose", value_name = "PORT")]
    expose: Vec<String>,
    /// Name server of the container
    #[arg(long = "dns", value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Search domain of the container
    #[arg(long = "dns-search", value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Option of resolv.conf
    #[arg(long = "dns-option", visible_alias = "dns-opt", value_name = "OPTION")]
    dns_options: Vec<String>,
    /// Add a name to /etc/hosts, NAME:ADDRESS or NAME:host-gateway
    #[arg(long = "add-host", value_name = "HOST")]
    add_host: Vec<String>,
}

impl NetworkFlags {
    /// Joins these flags and the image's exposed ports.
    pub(super) fn apply(&self, engine: &Engine, config: &mut NetworkConfig, image: &Config) -> Result<()> {
        let resolve = |name: &str| Ok(engine.find(name)?.record.id);
        config.mode = options::network_mode(&self.network, resolve)?;
        for text in &self.publish {
            config.requested.extend(rkvm_net::PortMapping::parse(text)?);
        }
        config.ports = config.requested.iter().map(network::port_mapping).collect();
        let mut exposed = image.exposed_ports().clone().unwrap_or_default();
        for text in &self.expose {
            rkvm_net::PortMapping::parse_exposed(text)?;
            exposed.push(if text.contains('/') { text.clone() } else { format!("{text}/tcp") });
        }
        exposed.sort();
        exposed.dedup();
        config.exposed = exposed;
        config.publish_all = self.publish_all;
        config.dns.clone_from(&self.dns);
        config.dns_search.clone_from(&self.dns_search);
        config.dns_options.clone_from(&self.dns_options);
        for text in &self.add_host {
            // Only a check: what host-gateway is, is known when the container starts.
            rkvm_net::files::HostEntry::parse(text, IpAddr::from([127, 0, 0, 1]))?;
            match text.split_once(['=', ':']) {
                Some((name, address)) => config.extra_hosts.push((name.to_owned(), address.to_owned())),
                None => bail!("--add-host {text:?} has no address"),
            }
        }
        Ok(())
    }
}
