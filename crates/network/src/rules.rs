//! Who may do what: Neutron's default policies for the resources that are here (Neutron, "Policy configuration").

use policy::Rule;

const MEMBER: &str =
    "rule:context_is_admin or rule:service_api or (role:member and project_id:%(project_id)s)";
const READER: &str =
    "rule:context_is_admin or rule:service_api or (role:reader and project_id:%(project_id)s)";
const ADMIN: &str = "rule:context_is_admin";
const SERVICE: &str = "rule:context_is_admin or rule:service_api";
const NET_OWNER: &str =
    "rule:context_is_admin or rule:service_api or (role:member and rule:network_owner)";
const MEMBER_OR_NET_OWNER: &str = "rule:context_is_admin or rule:service_api or (role:member and project_id:%(project_id)s) or (role:member and rule:network_owner)";

/// (name, check); a name `action_resource:attribute` guards an attribute that a request names.
const TABLE: &[(&str, &str)] = &[
    ("context_is_admin", "role:admin"),
    ("service_api", "role:service"),
    ("network_owner", "project_id:%(network:project_id)s"),
    ("group_owner", "project_id:%(ext_parent:project_id)s"),
    ("shared", "'True':%(shared)s"),
    ("external", "'True':%(router:external)s"),
    ("network_device", "'True':%(network_device)s"),
    ("create_network", MEMBER),
    ("create_network:shared", ADMIN),
    ("create_network:router:external", ADMIN),
    ("create_network:is_default", ADMIN),
    ("create_network:provider:network_type", ADMIN),
    ("create_network:provider:physical_network", ADMIN),
    ("create_network:provider:segmentation_id", ADMIN),
    (
        "get_network",
        "rule:context_is_admin or rule:service_api or (role:reader and project_id:%(project_id)s) or rule:shared or rule:external",
    ),
    ("get_network:provider:network_type", ADMIN),
    ("get_network:provider:physical_network", ADMIN),
    ("get_network:provider:segmentation_id", ADMIN),
    ("update_network", MEMBER),
    ("update_network:shared", ADMIN),
    ("update_network:router:external", ADMIN),
    ("update_network:is_default", ADMIN),
    ("delete_network", MEMBER),
    ("create_subnet", NET_OWNER),
    (
        "get_subnet",
        "rule:context_is_admin or rule:service_api or (role:reader and project_id:%(project_id)s) or rule:shared or (role:reader and rule:network_owner)",
    ),
    ("update_subnet", MEMBER_OR_NET_OWNER),
    ("delete_subnet", MEMBER_OR_NET_OWNER),
    ("create_subnetpool", MEMBER),
    ("create_subnetpool:shared", ADMIN),
    ("create_subnetpool:is_default", ADMIN),
    (
        "get_subnetpool",
        "rule:context_is_admin or (role:reader and project_id:%(project_id)s) or rule:shared",
    ),
    ("update_subnetpool", MEMBER),
    ("update_subnetpool:is_default", ADMIN),
    ("delete_subnetpool", MEMBER),
    ("create_address_scope", MEMBER),
    ("create_address_scope:shared", ADMIN),
    (
        "get_address_scope",
        "rule:context_is_admin or (role:reader and project_id:%(project_id)s) or rule:shared",
    ),
    ("update_address_scope", MEMBER),
    ("update_address_scope:shared", ADMIN),
    ("delete_address_scope", MEMBER),
    ("create_port", MEMBER),
    (
        "create_port:device_owner",
        "not rule:network_device or rule:context_is_admin or rule:service_api or rule:network_owner",
    ),
    ("create_port:mac_address", NET_OWNER),
    ("create_port:fixed_ips:ip_address", NET_OWNER),
    (
        "create_port:fixed_ips:subnet_id",
        "rule:context_is_admin or rule:service_api or rule:network_owner or rule:shared",
    ),
    ("create_port:port_security_enabled", NET_OWNER),
    ("create_port:binding:host_id", SERVICE),
    ("create_port:binding:profile", SERVICE),
    ("create_port:allowed_address_pairs", NET_OWNER),
    (
        "get_port",
        "rule:context_is_admin or rule:service_api or (role:reader and project_id:%(project_id)s) or (role:reader and rule:network_owner)",
    ),
    ("get_port:binding:vif_type", SERVICE),
    ("get_port:binding:vif_details", SERVICE),
    ("get_port:binding:host_id", SERVICE),
    ("get_port:binding:profile", SERVICE),
    ("update_port", MEMBER),
    (
        "update_port:device_owner",
        "not rule:network_device or rule:context_is_admin or rule:service_api or rule:network_owner",
    ),
    ("update_port:mac_address", SERVICE),
    ("update_port:fixed_ips:ip_address", NET_OWNER),
    (
        "update_port:fixed_ips:subnet_id",
        "rule:context_is_admin or rule:service_api or rule:network_owner or rule:shared",
    ),
    ("update_port:port_security_enabled", NET_OWNER),
    ("update_port:binding:host_id", SERVICE),
    ("update_port:binding:profile", SERVICE),
    ("update_port:allowed_address_pairs", NET_OWNER),
    ("delete_port", MEMBER_OR_NET_OWNER),
    ("get_port_binding", SERVICE),
    ("create_port_binding", SERVICE),
    ("update_port_binding", SERVICE),
    ("delete_port_binding", SERVICE),
    ("activate", SERVICE),
    ("create_router", MEMBER),
    ("create_router:distributed", ADMIN),
    ("create_router:ha", ADMIN),
    ("create_router:external_gateway_info:enable_snat", ADMIN),
    (
        "create_router:external_gateway_info:external_fixed_ips",
        ADMIN,
    ),
    ("get_router", READER),
    ("get_router:distributed", ADMIN),
    ("get_router:ha", ADMIN),
    ("update_router", MEMBER),
    ("update_router:distributed", ADMIN),
    ("update_router:ha", ADMIN),
    ("update_router:external_gateway_info:enable_snat", ADMIN),
    (
        "update_router:external_gateway_info:external_fixed_ips",
        ADMIN,
    ),
    ("delete_router", MEMBER),
    ("add_router_interface", MEMBER),
    ("remove_router_interface", MEMBER),
    ("add_extraroutes", MEMBER),
    ("remove_extraroutes", MEMBER),
    ("create_floatingip", MEMBER),
    ("create_floatingip:floating_ip_address", ADMIN),
    ("get_floatingip", READER),
    ("update_floatingip", MEMBER),
    ("delete_floatingip", MEMBER),
    ("create_security_group", MEMBER),
    ("get_security_group", READER),
    ("update_security_group", MEMBER),
    ("delete_security_group", MEMBER),
    ("create_security_group_rule", MEMBER),
    (
        "get_security_group_rule",
        "rule:context_is_admin or rule:service_api or (role:reader and project_id:%(project_id)s) or (role:reader and rule:group_owner)",
    ),
    ("delete_security_group_rule", MEMBER),
    ("get_quota", READER),
    ("update_quota", ADMIN),
    ("delete_quota", ADMIN),
    ("get_agent", ADMIN),
    ("update_agent", ADMIN),
    ("delete_agent", ADMIN),
    ("get_network_ip_availability", ADMIN),
    ("create_trunk", MEMBER),
    ("get_trunk", READER),
    ("update_trunk", MEMBER),
    ("delete_trunk", MEMBER),
    ("get_subports", READER),
    ("add_subports", MEMBER),
    ("remove_subports", MEMBER),
    ("get_auto_allocated_topology", READER),
    ("delete_auto_allocated_topology", MEMBER),
    ("wait_for_ports", SERVICE),
];

/// The default rules.
pub fn defaults() -> impl Iterator<Item = Rule> {
    TABLE.iter().map(|(name, check)| Rule {
        name,
        check,
        description: "",
    })
}

/// Whether there is a rule of this name.
pub fn exists(name: &str) -> bool {
    TABLE.iter().any(|(known, _)| *known == name)
}
