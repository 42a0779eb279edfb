# shellcheck shell=bash
# A real directory: OpenLDAP's slapd with two users, of whom one is in a group; and the authority that it, the issuer and clients with a
# certificate have theirs from.

directory=localhost:6360
directory_plain=localhost:3890
directory_home=$work/directory

make_authority() {
    mkdir -p "$work/authority"
    openssl req -x509 -newkey rsa:2048 -noenc -days 2 -subj '/CN=authority of the tests' -addext 'basicConstraints=critical,CA:TRUE' \
        -keyout "$work/authority/ca.key" -out "$work/authority/ca.crt" 2>/dev/null
}

# issue_certificate FILE NAME: FILE.crt and FILE.key, for a server of that name or a user
issue_certificate() {
    openssl req -newkey rsa:2048 -noenc -subj "/CN=$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA "$work/authority/ca.crt" -CAkey "$work/authority/ca.key" -CAcreateserial -days 2 \
        -extfile <(printf 'subjectAltName=DNS:%s\n' "$2${3:+,IP:$3}") -out "$1.crt" 2>/dev/null
}

prepare_directory() {
    mkdir -p "$directory_home/data"
    issue_certificate "$directory_home/server" localhost
    cat >"$directory_home/slapd.conf" <<CONF
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile $directory_home/pid
TLSCACertificateFile $work/authority/ca.crt
TLSCertificateFile $directory_home/server.crt
TLSCertificateKeyFile $directory_home/server.key
database mdb
maxsize 10485760
suffix "dc=acme"
rootdn "cn=admin,dc=acme"
directory $directory_home/data
access to attrs=userPassword by anonymous auth by * none
access to * by users read by * none
CONF
    slapadd -f "$directory_home/slapd.conf" <<LDIF
dn: dc=acme
objectClass: dcObject
objectClass: organization
o: Acme
dc: acme

dn: ou=people,dc=acme
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=acme
objectClass: organizationalUnit
ou: groups

dn: uid=grace,ou=people,dc=acme
objectClass: inetOrgPerson
uid: grace
cn: Grace
sn: Hopper
userPassword: $(slappasswd -s hopper)

dn: uid=joan,ou=people,dc=acme
objectClass: inetOrgPerson
uid: joan
cn: Joan
sn: Clarke
userPassword: $(slappasswd -s clarke)

dn: cn=builders,ou=groups,dc=acme
objectClass: groupOfNames
cn: builders
member: uid=grace,ou=people,dc=acme
LDIF
}

start_directory() {
    start slapd slapd -d 256 -f "$directory_home/slapd.conf" -h "ldaps://$directory ldap://$directory_plain"
    wait_for slapd ldapwhoami -x -H "ldap://$directory_plain"
}
