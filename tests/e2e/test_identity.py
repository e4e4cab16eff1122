"""Users, projects, roles, tokens and credentials through the stock command and SDK."""

import keystoneauth1.exceptions
import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session


@pytest.fixture
def person(admin, name):
    """A user with a project of the same name, where it is a member."""
    admin.run("project", "create", "--description", "for a test", name)
    made = admin.get("user", "create", "--project", name, "--password", "first-Secret-1", name)
    admin.run("role", "add", "--project", name, "--user", name, "member")
    yield made
    admin.run("user", "delete", name)
    admin.run("project", "delete", name)


@pytest.fixture
def log_in(cloud):
    def make(kind=v3.Password, **more):
        return Session(auth=kind(f"http://127.0.0.1:{cloud.ports['identity']}/v3", **more))

    return make


def password(name, secret="first-Secret-1", **scope):
    return {"username": name, "password": secret, "user_domain_name": "Default", **scope}


def project_scope(name):
    return {"project_name": name, "project_domain_name": "Default"}


def test_scopes(log_in, person, name):
    token = log_in(**password(name, **project_scope(name))).auth.get_access(
        log_in(**password(name, **project_scope(name)))
    )
    # member implies reader, as Keystone bootstraps them.
    assert set(token.role_names) == {"member", "reader"} and token.project_name == name
    assert {service["type"] for service in token.service_catalog.catalog} >= {"compute", "network", "image"}

    unscoped = log_in(**password(name, unscoped=True))
    access = unscoped.auth.get_access(unscoped)
    assert access.project_id is None and not access.has_service_catalog()

    again = log_in(v3.Token, token=access.auth_token, **project_scope(name))
    assert again.auth.get_access(again).project_name == name

    for scope in ({"domain_name": "Default"}, {"system_scope": "all"}, project_scope("admin")):
        with pytest.raises(keystoneauth1.exceptions.Unauthorized):
            log_in(**password(name, **scope)).get_token()


def test_admin_scopes(admin, log_in):
    auth = admin.sdk().config.auth
    secret = {"username": auth["username"], "password": auth["password"], "user_domain_name": "Default"}
    everywhere = log_in(system_scope="all", **secret)
    assert everywhere.auth.get_access(everywhere).system_scoped
    domain = log_in(domain_name="Default", **secret)
    assert domain.auth.get_access(domain).domain_id == "default"


@pytest.mark.parametrize(
    "change", [{"password": "wrong"}, {"username": "nobody-here"}, {"user_domain_name": "nowhere"}]
)
def test_wrong_credentials_say_nothing_more(log_in, person, name, change):
    with pytest.raises(keystoneauth1.exceptions.Unauthorized) as refused:
        log_in(**{**password(name, **project_scope(name)), **change}).get_token()
    assert "The request you have made requires authentication" in str(refused.value)


def test_password_change_ends_tokens(admin, log_in, person, name, cloud):
    session = log_in(**password(name, **project_scope(name)))
    url = f"http://127.0.0.1:{cloud.ports['compute']}/v2.1/servers"
    assert session.get(url).status_code == 200
    admin.run("user", "set", "--password", "second-Secret-2", name)
    assert session.get(url, raise_exc=False, allow_reauth=False, authenticated=True).status_code == 401
    assert log_in(**password(name, "second-Secret-2", **project_scope(name))).get_token()


def test_disabled_user(admin, log_in, person, name):
    admin.run("user", "set", "--disable", name)
    with pytest.raises(keystoneauth1.exceptions.Unauthorized):
        log_in(**password(name, **project_scope(name))).get_token()
    admin.run("user", "set", "--enable", name)
    assert log_in(**password(name, **project_scope(name))).get_token()


def test_role_by_group(admin, log_in, person, name):
    admin.run("project", "create", f"{name}-team")
    admin.run("group", "create", name)
    admin.run("group", "add", "user", name, name)
    admin.run("role", "add", "--project", f"{name}-team", "--group", name, "reader")
    session = log_in(**password(name, **project_scope(f"{name}-team")))
    assert session.auth.get_access(session).role_names == ["reader"]
    rows = admin.get("role", "assignment", "list", "--effective", "--user", name, "--names")
    assert {(row["Role"], row["Project"].split("@")[0]) for row in rows} == {
        ("member", name),
        ("reader", name),
        ("reader", f"{name}-team"),
    }
    admin.run("group", "remove", "user", name, name)
    with pytest.raises(keystoneauth1.exceptions.Unauthorized):
        log_in(**password(name, **project_scope(f"{name}-team"))).get_token()
    admin.run("group", "delete", name)
    admin.run("project", "delete", f"{name}-team")


def test_admin_implies_member_and_reader(admin):
    sdk = admin.sdk()
    roles = sdk.session.auth.get_access(sdk.session).role_names
    assert set(roles) >= {"admin", "manager", "member", "reader"}


def test_application_credential(demo, log_in, name):
    made = demo.get("application", "credential", "create", "--secret", "s3cret-of-a-robot", name)
    robot = {
        "application_credential_id": made.get("ID") or made["id"],
        "application_credential_secret": "s3cret-of-a-robot",
    }
    session = log_in(v3.ApplicationCredential, **robot)
    assert session.auth.get_access(session).project_name == "demo"
    assert name in demo.names("application", "credential", "list")
    demo.run("application", "credential", "delete", name)
    with pytest.raises(keystoneauth1.exceptions.Unauthorized):
        log_in(v3.ApplicationCredential, **robot).get_token()


def test_ec2_credentials(demo):
    made = demo.get("ec2", "credentials", "create")
    assert made["access"] and made["secret"]
    assert made["access"] in [row["Access"] for row in demo.get("ec2", "credentials", "list")]
    demo.run("ec2", "credentials", "delete", made["access"])
    assert made["access"] not in [row["Access"] for row in demo.get("ec2", "credentials", "list")]


def test_token_issue_and_revoke(demo, log_in):
    token = demo.get("token", "issue")["id"]
    assert log_in(v3.Token, token=token, unscoped=True).get_token()
    demo.run("token", "revoke", token)
    with pytest.raises((keystoneauth1.exceptions.Unauthorized, keystoneauth1.exceptions.NotFound)):
        log_in(v3.Token, token=token, unscoped=True).get_token()


def test_services_regions_endpoints(admin, name):
    admin.run("service", "create", "--name", name, "--description", "x", f"kind-{name}")
    endpoint = admin.get("endpoint", "create", "--region", "RegionOne", name, "public", "http://192.0.2.1/")
    assert f"kind-{name}" in [row["Type"] for row in admin.get("catalog", "list")]
    admin.run("endpoint", "delete", endpoint["id"])
    admin.run("service", "delete", name)
    admin.run("region", "create", "--parent-region", "RegionOne", name)
    assert admin.get("region", "show", name)["parent_region"] == "RegionOne"
    admin.run("region", "delete", name)


def test_a_new_project_can_have_a_server_and_goes(cloud, admin, log_in, person, name, image):
    """The first thing an administrator does: a project and a member in it, who boots a server."""
    import openstack

    sdk = openstack.connection.Connection(
        session=log_in(**password(name, **project_scope(name))), region_name="RegionOne", compute_api_version="2"
    )
    flavor = sdk.compute.find_flavor("m1.nano").id
    network = sdk.network.find_network("private").id
    server = sdk.compute.create_server(name=name, image_id=image["id"], flavor_id=flavor, networks=[{"uuid": network}])
    sdk.compute.wait_for_server(server, wait=60)
    sdk.compute.delete_server(server)
    sdk.compute.wait_for_delete(server, wait=60)
