//! The network service (Networking API v2.0).

use crate::{ClientError, headers, unexpected};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use types::{HostName, ServerId};
use url::form_urlencoded::byte_serialize;
use web::client::{Answer, Client};

const SERVICE: &str = "the network service";

/// A network as compute sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRecord {
    /// The id.
    pub id: String,
    /// The name, under which servers show their addresses.
    pub name: String,
    /// Bytes.
    pub mtu: u32,
    /// Usable by every project.
    pub shared: bool,
    /// Leads outside; for floating addresses.
    pub external: bool,
    /// Ids of its subnets.
    pub subnets: Vec<String>,
    /// The owner.
    pub project_id: String,
    /// Whether ports on it have security groups by default.
    pub port_security: bool,
}

/// A port as compute sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRecord {
    /// The id.
    pub id: String,
    /// Its network.
    pub network_id: String,
    /// MAC address.
    pub mac: String,
    /// `(subnet, address)` pairs.
    pub fixed_ips: Vec<(String, String)>,
    /// When it gets them: `immediate` (or nothing), `deferred` or `none`.
    pub ip_allocation: String,
    /// The server that uses it, or empty.
    pub device_id: String,
    /// `compute:zone`, or empty.
    pub device_owner: String,
    /// The owner.
    pub project_id: String,
    /// The host it is bound to, or empty (administrators only).
    pub binding_host: String,
    /// `ACTIVE` when the host has wired it.
    pub status: String,
    /// Security groups.
    pub security_groups: Vec<String>,
}

/// What the network service refuses, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The type of the error, for example `InvalidIpForNetwork`.
    pub kind: String,
    /// The service's words.
    pub words: String,
}

/// A port that a server has, as far as all of them are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundPort {
    /// The id.
    pub id: String,
    /// The server.
    pub server: ServerId,
    /// Whether compute has bound it (`compute:zone`).
    pub by_compute: bool,
    /// Its addresses, in the order in which it has them.
    pub addresses: Vec<String>,
}

/// What the network agents found on their hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// What differs from what is wanted: on which host, and as the command that would make it right or in words.
    pub found: Vec<(HostName, String)>,
    /// Hosts that did not answer in time.
    pub silent: Vec<HostName>,
    /// Hosts that were not asked, and why.
    pub unasked: Vec<(HostName, String)>,
}

/// A subnet, as far as guests must know it (`network_data.json`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The id.
    pub id: String,
    /// Range.
    pub cidr: String,
    /// Gateway.
    pub gateway_ip: Option<String>,
    /// Name servers.
    pub dns_nameservers: Vec<String>,
    /// `(destination, next hop)`.
    pub host_routes: Vec<(String, String)>,
    /// Whether addresses come by DHCP.
    pub enable_dhcp: bool,
    /// 4 or 6.
    pub ip_version: u8,
    /// `slaac`, `dhcpv6-stateful` or `dhcpv6-stateless`.
    pub ipv6_address_mode: Option<String>,
}

/// A port to make for a server.
#[derive(Clone, Debug)]
pub struct NewPort<'a> {
    /// On this network.
    pub network_id: &'a str,
    /// With this address.
    pub fixed_ip: Option<&'a str>,
    /// For this project.
    pub project_id: &'a str,
    /// Of this server.
    pub server: ServerId,
    /// `compute:<zone>`.
    pub device_owner: &'a str,
    /// On this host.
    pub host: &'a str,
    /// With these groups; none means the project's default group.
    pub security_groups: &'a [String],
    /// The guest's name, for DNS.
    pub hostname: &'a str,
}

/// A client of the network service.
pub struct Networks {
    client: Client,
}

impl Networks {
    /// A client over this transport.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// A request as it is, for the proxies of old API versions: they show whole documents and pass refusals on.
    pub async fn forward(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, ClientError> {
        self.client.call(method, path, headers(token), body).await
    }

    async fn get(&self, token: &str, path: &str) -> Result<Option<Value>, ClientError> {
        let answer = self
            .client
            .call(Method::GET, path, headers(token), None)
            .await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.json())),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(unexpected(SERVICE, path, &answer)),
        }
    }

    async fn list(&self, token: &str, path: &str, key: &str) -> Result<Vec<Value>, ClientError> {
        let found = self.get(token, path).await?;
        Ok(found
            .and_then(|document| document[key].as_array().cloned())
            .unwrap_or_default())
    }

    /// A network that the token's holder may see.
    pub async fn network(
        &self,
        token: &str,
        id: &str,
    ) -> Result<Option<NetworkRecord>, ClientError> {
        let found = self
            .get(token, &format!("/v2.0/networks/{}", escape(id)))
            .await?;
        Ok(found.map(|document| network(&document["network"])))
    }

    /// The networks a project's servers may be on without naming one: its own and shared ones.
    pub async fn networks_for(
        &self,
        token: &str,
        project_id: &str,
    ) -> Result<Vec<NetworkRecord>, ClientError> {
        let own = self
            .list(
                token,
                &format!("/v2.0/networks?project_id={}", escape(project_id)),
                "networks",
            )
            .await?;
        let shared = self
            .list(token, "/v2.0/networks?shared=true", "networks")
            .await?;
        let mut found: Vec<NetworkRecord> = Vec::new();
        for document in own.iter().chain(&shared) {
            let record = network(document);
            if !found.iter().any(|known| known.id == record.id) && !record.external {
                found.push(record);
            }
        }
        Ok(found)
    }

    /// The id of the network that the service makes for a project which asks for any (`auto-allocated-topology`). With
    /// `dry` nothing is made, and the id means nothing. A refusal is the inner `Err`, in the service's words.
    pub async fn auto_allocate(
        &self,
        token: &str,
        project_id: &str,
        dry: bool,
    ) -> Result<Result<String, String>, ClientError> {
        let query = if dry { "?fields=dry-run" } else { "" };
        let project_id = escape(project_id);
        let path = format!("/v2.0/auto-allocated-topology/{project_id}{query}");
        let answer = self
            .client
            .call(Method::GET, &path, headers(token), None)
            .await?;
        match answer.status {
            StatusCode::OK => Ok(Ok(text(&answer.json()["auto_allocated_topology"], "id"))),
            StatusCode::NOT_FOUND => Ok(Err(
                "the network service does not make networks by itself".to_owned(),
            )),
            status if status.is_client_error() => Ok(Err(refusal(&answer))),
            _ => Err(unexpected(SERVICE, "auto-allocated topology", &answer)),
        }
    }

    /// A port that the token's holder may see.
    pub async fn port(&self, token: &str, id: &str) -> Result<Option<PortRecord>, ClientError> {
        let found = self
            .get(token, &format!("/v2.0/ports/{}", escape(id)))
            .await?;
        Ok(found.map(|document| port(&document["port"])))
    }

    /// Whose an address of a network is: the device of the port that has it, which may be nobody's. Ports of others that the
    /// token's holder may not see are not found.
    pub async fn device_with(
        &self,
        token: &str,
        network_id: &str,
        address: &str,
    ) -> Result<Option<String>, ClientError> {
        let (network_id, address) = (escape(network_id), escape(address));
        let path = format!(
            "/v2.0/ports?network_id={network_id}&fixed_ips=ip_address%3D{address}&fields=device_id"
        );
        let ports = self.list(token, &path, "ports").await?;
        Ok(ports.first().map(|port| text(port, "device_id")))
    }

    /// The ports of a server.
    pub async fn ports_of_server(
        &self,
        token: &str,
        server: ServerId,
    ) -> Result<Vec<PortRecord>, ClientError> {
        Ok(self
            .list(token, &format!("/v2.0/ports?device_id={server}"), "ports")
            .await?
            .iter()
            .map(port)
            .collect())
    }

    /// All ports that servers have. For administrators. Whoever asks concludes from what is missing, so only a list is an
    /// answer.
    pub async fn ports_of_servers(&self, token: &str) -> Result<Vec<BoundPort>, ClientError> {
        let path = "/v2.0/ports?fields=id&fields=device_id&fields=device_owner&fields=fixed_ips";
        let answer = self.client.call(Method::GET, path, headers(token), None);
        let answer = answer.await?;
        let all = match (answer.status, answer.part("ports")) {
            (StatusCode::OK, Value::Array(all)) => all,
            _ => return Err(unexpected(SERVICE, path, &answer)),
        };
        let bound = |port: &Value| {
            let addresses = fixed_ips(port).into_iter().map(|(_, ip)| ip);
            Some(BoundPort {
                id: text(port, "id"),
                server: text(port, "device_id").parse().ok()?,
                by_compute: text(port, "device_owner").starts_with("compute:"),
                addresses: addresses.collect(),
            })
        };
        Ok(all.iter().filter_map(bound).collect())
    }

    /// Has the agents of all hosts look at them, and with `mend` make right what differs. For administrators. Answers within
    /// the limit of every request, since the agents have 20 seconds. `None` where the service knows of no looks: a Neutron.
    pub async fn looks(&self, token: &str, mend: bool) -> Result<Option<Looks>, ClientError> {
        let path = "/v2.0/agents/looks";
        let body = json!({ "look": { "mend": mend } });
        let answer = self
            .client
            .call(Method::POST, path, headers(token), Some(&body))
            .await?;
        if matches!(
            answer.status,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
        ) {
            return Ok(None);
        }
        let lists = (answer.part("looks"), answer.part("silent"));
        let (StatusCode::OK, (Value::Array(looks), Value::Array(_))) = (answer.status, lists)
        else {
            return Err(unexpected(SERVICE, path, &answer));
        };
        let mut found = Vec::new();
        for look in &looks {
            let host = HostName::from(text(look, "host"));
            let differences = texts(look, "differences").into_iter();
            found.extend(differences.map(|difference| (host.clone(), difference)));
        }
        let silent = texts(&answer.json(), "silent").into_iter();
        // A service of the release before does not say this.
        let unasked = answer.part("unasked");
        let unasked = unasked.as_array().into_iter().flatten();
        let unasked = unasked.map(|one| (HostName::from(text(one, "host")), text(one, "reason")));
        Ok(Some(Looks {
            found,
            silent: silent.map(HostName::from).collect(),
            unasked: unasked.collect(),
        }))
    }

    /// The security groups of a project: `(id, name)`.
    pub async fn security_groups(
        &self,
        token: &str,
        project_id: &str,
    ) -> Result<Vec<(String, String)>, ClientError> {
        let path = format!(
            "/v2.0/security-groups?project_id={}&fields=id&fields=name",
            escape(project_id)
        );
        let groups = self.list(token, &path, "security_groups").await?;
        Ok(groups
            .iter()
            .map(|group| (text(group, "id"), text(group, "name")))
            .collect())
    }

    /// How many security groups there are, of all projects that the token's holder sees.
    pub async fn count_security_groups(&self, token: &str) -> Result<usize, ClientError> {
        let path = "/v2.0/security-groups?fields=id";
        Ok(self.list(token, path, "security_groups").await?.len())
    }

    /// The subnets of a network.
    pub async fn subnets(&self, token: &str, network_id: &str) -> Result<Vec<Subnet>, ClientError> {
        let subnets = self
            .list(
                token,
                &format!("/v2.0/subnets?network_id={}", escape(network_id)),
                "subnets",
            )
            .await?;
        Ok(subnets.iter().map(subnet).collect())
    }

    /// All floating addresses that lead to a port: `(fixed address, floating address, port)`. For administrators.
    pub async fn all_floating_ips(
        &self,
        token: &str,
    ) -> Result<Vec<(String, String, String)>, ClientError> {
        let found = self.list(token, "/v2.0/floatingips", "floatingips").await?;
        let led = found.iter().filter(|ip| ip["port_id"].is_string());
        Ok(led
            .map(|ip| {
                (
                    text(ip, "fixed_ip_address"),
                    text(ip, "floating_ip_address"),
                    text(ip, "port_id"),
                )
            })
            .collect())
    }

    /// The floating addresses of a server's ports: `(fixed address, floating address, port)`.
    pub async fn floating_ips(
        &self,
        token: &str,
        ports: &[String],
    ) -> Result<Vec<(String, String, String)>, ClientError> {
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let filter: Vec<String> = ports
            .iter()
            .map(|port| format!("port_id={}", escape(port)))
            .collect();
        let found = self
            .list(
                token,
                &format!("/v2.0/floatingips?{}", filter.join("&")),
                "floatingips",
            )
            .await?;
        Ok(found
            .iter()
            .map(|ip| {
                (
                    text(ip, "fixed_ip_address"),
                    text(ip, "floating_ip_address"),
                    text(ip, "port_id"),
                )
            })
            .collect())
    }

    /// Makes a port. A refusal (no address left, quota, address taken) is the inner `Err`.
    pub async fn create_port(
        &self,
        token: &str,
        new: &NewPort<'_>,
    ) -> Result<Result<PortRecord, Refused>, ClientError> {
        let mut body = json!({
            "network_id": new.network_id,
            "project_id": new.project_id,
            "device_id": new.server.to_string(),
            "device_owner": new.device_owner,
            "binding:host_id": new.host,
            "admin_state_up": true,
        });
        if let Some(ip) = new.fixed_ip {
            body["fixed_ips"] = json!([{ "ip_address": ip }]);
        }
        if !new.security_groups.is_empty() {
            body["security_groups"] = json!(new.security_groups);
        }
        if !new.hostname.is_empty() {
            body["dns_name"] = json!(new.hostname);
        }
        let mut answer = self
            .client
            .call(
                Method::POST,
                "/v2.0/ports",
                headers(token),
                Some(&json!({ "port": body })),
            )
            .await?;
        let no_dns =
            answer.status == StatusCode::BAD_REQUEST && refusal(&answer).contains("dns_name");
        if no_dns && let Some(body) = body.as_object_mut() {
            // A service without the dns-integration extension.
            body.remove("dns_name");
            answer = self
                .client
                .call(
                    Method::POST,
                    "/v2.0/ports",
                    headers(token),
                    Some(&json!({ "port": body })),
                )
                .await?;
        }
        match answer.status {
            StatusCode::CREATED => Ok(Ok(port(&answer.json()["port"]))),
            status if status.is_client_error() => Ok(Err(Refused {
                kind: text(&answer.json()["NeutronError"], "type"),
                words: refusal(&answer),
            })),
            _ => Err(unexpected(SERVICE, "create port", &answer)),
        }
    }

    /// Gives an existing port to a server on a host, or (with empty texts) takes it back. A port that is gone is fine
    /// only when taking back; otherwise the inner `Err` says so.
    pub async fn bind_port(
        &self,
        token: &str,
        port_id: &str,
        server: &str,
        device_owner: &str,
        host: &str,
    ) -> Result<Result<PortRecord, String>, ClientError> {
        let body = json!({ "port": { "device_id": server, "device_owner": device_owner, "binding:host_id": host } });
        let path = format!("/v2.0/ports/{}", escape(port_id));
        let answer = self
            .client
            .call(Method::PUT, &path, headers(token), Some(&body))
            .await?;
        match answer.status {
            StatusCode::OK => Ok(Ok(port(&answer.json()["port"]))),
            status if status.is_client_error() => Ok(Err(refusal(&answer))),
            _ => Err(unexpected(SERVICE, "update port", &answer)),
        }
    }

    /// Whether ports can be bound to several hosts (`binding-extended`).
    pub async fn binds_to_several(&self, token: &str) -> Result<bool, ClientError> {
        let path = "/v2.0/extensions/binding-extended";
        let answer = self
            .client
            .call(Method::GET, path, headers(token), None)
            .await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(unexpected(SERVICE, "show extension", &answer)),
        }
    }

    /// Has another host make a port ready. One that does so already is fine; a refusal is the inner `Err`.
    pub async fn make_ready(
        &self,
        token: &str,
        port_id: &str,
        host: &str,
    ) -> Result<Result<(), String>, ClientError> {
        let path = format!("/v2.0/ports/{}/bindings", escape(port_id));
        let body = json!({ "binding": { "host": host } });
        let answer = self
            .client
            .call(Method::POST, &path, headers(token), Some(&body))
            .await?;
        match answer.status {
            StatusCode::CREATED | StatusCode::OK | StatusCode::CONFLICT => Ok(Ok(())),
            status if status.is_client_error() => Ok(Err(refusal(&answer))),
            _ => Err(unexpected(SERVICE, "create port binding", &answer)),
        }
    }

    /// A port is no longer ready on a host. It never was, or there is no port: fine.
    pub async fn make_unready(
        &self,
        token: &str,
        port_id: &str,
        host: &str,
    ) -> Result<(), ClientError> {
        let (port_id, host) = (escape(port_id), escape(host));
        let path = format!("/v2.0/ports/{port_id}/bindings/{host}");
        let answer = self
            .client
            .call(Method::DELETE, &path, headers(token), None)
            .await?;
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::NOT_FOUND => Ok(()),
            _ => Err(unexpected(SERVICE, "delete port binding", &answer)),
        }
    }

    /// A port that a host has ready is active there from now on; `false` when that host has not made it ready.
    pub async fn activate(
        &self,
        token: &str,
        port_id: &str,
        host: &str,
    ) -> Result<bool, ClientError> {
        let (port_id, host) = (escape(port_id), escape(host));
        let path = format!("/v2.0/ports/{port_id}/bindings/{host}/activate");
        let answer = self
            .client
            .call(Method::PUT, &path, headers(token), None)
            .await?;
        match answer.status {
            StatusCode::OK | StatusCode::CONFLICT => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(unexpected(SERVICE, "activate port binding", &answer)),
        }
    }

    /// Gives a port these fixed addresses and no others, as `(subnet, address)`; an empty address is any free one of the
    /// subnet. A refusal is the inner `Err`, in the service's words.
    pub async fn set_fixed_ips(
        &self,
        token: &str,
        port_id: &str,
        addresses: &[(String, String)],
    ) -> Result<Result<PortRecord, String>, ClientError> {
        let fixed: Vec<Value> = addresses
            .iter()
            .map(|(subnet, ip)| match ip.as_str() {
                "" => json!({ "subnet_id": subnet }),
                ip => json!({ "subnet_id": subnet, "ip_address": ip }),
            })
            .collect();
        let path = format!("/v2.0/ports/{}", escape(port_id));
        let body = json!({ "port": { "fixed_ips": fixed } });
        let answer = self
            .client
            .call(Method::PUT, &path, headers(token), Some(&body))
            .await?;
        match answer.status {
            StatusCode::OK => Ok(Ok(port(&answer.json()["port"]))),
            status if status.is_client_error() => Ok(Err(refusal(&answer))),
            _ => Err(unexpected(SERVICE, "update port", &answer)),
        }
    }

    /// Gives a port these security groups and no others; a refusal is the inner `Err`, in the service's words.
    pub async fn set_groups(
        &self,
        token: &str,
        port_id: &str,
        groups: &[String],
    ) -> Result<Result<(), String>, ClientError> {
        let body = json!({ "port": { "security_groups": groups } });
        let path = format!("/v2.0/ports/{}", escape(port_id));
        let answer = self
            .client
            .call(Method::PUT, &path, headers(token), Some(&body))
            .await?;
        match answer.status {
            StatusCode::OK => Ok(Ok(())),
            status if status.is_client_error() => Ok(Err(refusal(&answer))),
            _ => Err(unexpected(SERVICE, "update port", &answer)),
        }
    }

    /// Deletes a port; one that is gone already is fine.
    pub async fn delete_port(&self, token: &str, port_id: &str) -> Result<(), ClientError> {
        let answer = self
            .client
            .call(
                Method::DELETE,
                &format!("/v2.0/ports/{}", escape(port_id)),
                headers(token),
                None,
            )
            .await?;
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            _ => Err(unexpected(SERVICE, "delete port", &answer)),
        }
    }
}

fn escape(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

fn text(document: &Value, name: &str) -> String {
    document[name].as_str().unwrap_or_default().to_owned()
}

fn texts(document: &Value, name: &str) -> Vec<String> {
    let list = document[name].as_array();
    list.map(|list| {
        list.iter()
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect()
    })
    .unwrap_or_default()
}

/// The service's own words about a refusal.
pub fn refusal(answer: &Answer) -> String {
    let document = answer.json();
    document["NeutronError"]["message"]
        .as_str()
        .map_or_else(|| answer.status.to_string(), str::to_owned)
}

fn network(document: &Value) -> NetworkRecord {
    NetworkRecord {
        id: text(document, "id"),
        name: text(document, "name"),
        mtu: document["mtu"]
            .as_u64()
            .and_then(|mtu| u32::try_from(mtu).ok())
            .unwrap_or(1500),
        shared: document["shared"].as_bool().unwrap_or(false),
        external: document["router:external"].as_bool().unwrap_or(false),
        subnets: texts(document, "subnets"),
        project_id: text(document, "project_id"),
        port_security: document["port_security_enabled"].as_bool().unwrap_or(true),
    }
}

fn fixed_ips(port: &Value) -> Vec<(String, String)> {
    let ips = port["fixed_ips"].as_array().into_iter().flatten();
    ips.map(|ip| (text(ip, "subnet_id"), text(ip, "ip_address")))
        .collect()
}

fn port(document: &Value) -> PortRecord {
    PortRecord {
        id: text(document, "id"),
        network_id: text(document, "network_id"),
        mac: text(document, "mac_address"),
        fixed_ips: fixed_ips(document),
        ip_allocation: text(document, "ip_allocation"),
        device_id: text(document, "device_id"),
        device_owner: text(document, "device_owner"),
        project_id: text(document, "project_id"),
        binding_host: text(document, "binding:host_id"),
        status: text(document, "status"),
        security_groups: texts(document, "security_groups"),
    }
}

fn subnet(document: &Value) -> Subnet {
    let routes = document["host_routes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    Subnet {
        id: text(document, "id"),
        cidr: text(document, "cidr"),
        gateway_ip: document["gateway_ip"].as_str().map(str::to_owned),
        dns_nameservers: texts(document, "dns_nameservers"),
        host_routes: routes
            .iter()
            .map(|route| (text(route, "destination"), text(route, "nexthop")))
            .collect(),
        enable_dhcp: document["enable_dhcp"].as_bool().unwrap_or(true),
        ip_version: if document["ip_version"] == 6 { 6 } else { 4 },
        ipv6_address_mode: document["ipv6_address_mode"].as_str().map(str::to_owned),
    }
}

#[cfg(test)]
#[path = "networks_tests.rs"]
mod tests;
