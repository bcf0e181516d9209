//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime is the validity period of certificates. It is far longer than a test
// cluster exists.
const lifetime = 10 * 365 * 24 * time.Hour

// authority is a certificate authority of one cluster.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// identity is a certificate with its private key, both PEM-encoded.
type identity struct{ cert, key []byte }

// newAuthority returns a self-signed certificate authority.
func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the key of %s: %w", name, err)
	}
	template, err := certificate(name)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("creating the certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate of %s: %w", name, err)
	}
	return &authority{cert: cert, key: key, pem: encode("CERTIFICATE", der)}, nil
}

// issue issues a client certificate for a user and its groups. With hosts, which
// are names or IP addresses, the certificate is also valid for a server on them.
func (a *authority) issue(name string, groups, hosts []string) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, fmt.Errorf("generating the key of %s: %w", name, err)
	}
	template, err := certificate(name)
	if err != nil {
		return identity{}, err
	}
	template.Subject.Organization = groups
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return identity{}, fmt.Errorf("creating the certificate of %s: %w", name, err)
	}
	pem, err := encodeKey(key)
	return identity{cert: encode("CERTIFICATE", der), key: pem}, err
}

// certificate returns the template of a certificate with the given common name.
func certificate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("generating the serial number of %s: %w", name, err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), // tolerates clocks that are behind
		NotAfter:     time.Now().Add(lifetime),
	}, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return encode("EC PRIVATE KEY", der), nil
}

// nodeServer is the URL of the API server inside the node.
const nodeServer = "https://127.0.0.1:6443"

// writePKI writes all certificates, keys and kubeconfigs of the cluster. The
// kubeconfigs in pki name the API server's address inside the node. The
// administrator's kubeconfig in the state directory names its address on the
// host.
func writePKI(c *Cluster, r *Record) error {
	dir := c.Path("pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating the directory of certificates: %w", err)
	}
	ca, err := newAuthority("devcluster-ca")
	if err != nil {
		return err
	}
	// The API server trusts the user names that a client with a certificate of
	// this authority sends, so it must not be the authority of ordinary clients.
	front, err := newAuthority("devcluster-front-proxy-ca")
	if err != nil {
		return err
	}
	files := map[string][]byte{"ca.crt": ca.pem, "front-ca.crt": front.pem}
	if files["ca.key"], err = encodeKey(ca.key); err != nil {
		return err
	}
	if err := addAccountKeys(files); err != nil {
		return err
	}
	if files["encryption.yaml"], err = encryption(); err != nil {
		return err
	}
	if err := addServers(files, c, r, ca, front); err != nil {
		return err
	}
	if err := addUsers(files, c, r, ca); err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("writing certificates: %w", err)
		}
	}
	return nil
}

// addAccountKeys adds the key pair that signs the tokens of service accounts.
func addAccountKeys(files map[string][]byte) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generating the key of the service accounts: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encoding the public key of the service accounts: %w", err)
	}
	files["sa.pub"] = encode("PUBLIC KEY", public)
	files["sa.key"], err = encodeKey(key)
	return err
}

// encryption returns the configuration with which the API server encrypts Secrets in etcd
// (https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/).
func encryption() ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("generating the key for Secrets: %w", err)
	}
	return fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - secretbox:
          keys: [{name: devcluster, secret: %s}]
      - identity: {}
`, base64.StdEncoding.EncodeToString(key)), nil
}

// addServers adds the certificates of the API server and the kubelet, and those
// with which the API server authenticates as a client.
func addServers(files map[string][]byte, c *Cluster, r *Record, ca, front *authority) error {
	node := r.Network.Node.String()
	for _, one := range []struct {
		file, name    string
		groups, hosts []string
		by            *authority
	}{
		{"apiserver", "kube-apiserver", nil, []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local", "cluster", c.Name,
			"127.0.0.1", r.Listen, node, r.Network.ServiceIP(1).String(),
		}, ca},
		{"kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil, ca},
		{"front-proxy", "front-proxy-client", nil, nil, front},
		{"kubelet", "system:node:" + c.Name, []string{"system:nodes"}, []string{c.Name, node, "127.0.0.1"}, ca},
	} {
		id, err := one.by.issue(one.name, one.groups, one.hosts)
		if err != nil {
			return err
		}
		files[one.file+".crt"], files[one.file+".key"] = id.cert, id.key
		if one.file == "kubelet" {
			files["kubelet.kubeconfig"] = kubeconfig(c.Context(), nodeServer, ca.pem, id)
		}
	}
	return nil
}

// addUsers adds the kubeconfigs of the other clients of the API server, and
// writes the administrator's kubeconfig for the host.
func addUsers(files map[string][]byte, c *Cluster, r *Record, ca *authority) error {
	for _, user := range []struct {
		file, name string
		groups     []string
	}{
		{"controller-manager", "system:kube-controller-manager", nil},
		{"scheduler", "system:kube-scheduler", nil},
		{"proxy", "system:kube-proxy", nil},
		{"coredns", "system:coredns", nil},
		{"admin", "devcluster-admin", []string{"system:masters"}},
	} {
		id, err := ca.issue(user.name, user.groups, nil)
		if err != nil {
			return err
		}
		files[user.file+".kubeconfig"] = kubeconfig(c.Context(), nodeServer, ca.pem, id)
		if user.file == "admin" {
			files["admin.crt"], files["admin.key"] = id.cert, id.key
			outside := kubeconfig(c.Context(), r.Server(), ca.pem, id)
			if err := writeFile(c.Kubeconfig(), outside, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// kubeconfig returns a kubeconfig whose cluster, user and context all have the
// given name.
func kubeconfig(name, server string, ca []byte, id identity) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
contexts:
- name: %[1]s
  context:
    cluster: %[1]s
    user: %[1]s
current-context: %[1]s
`, name, server, b64(ca), b64(id.cert), b64(id.key))
}
