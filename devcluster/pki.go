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

// lifetime is far longer than a test cluster's.
const lifetime = 10 * 365 * 24 * time.Hour

// authority signs the certificates of one cluster.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// identity is a certificate with its key, both PEM.
type identity struct{ cert, key []byte }

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of %s: %w", name, err)
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
		return nil, fmt.Errorf("making the certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of %s: %w", name, err)
	}
	return &authority{cert: cert, key: key, pem: encode("CERTIFICATE", der)}, nil
}

// issue signs a certificate for a user (name and groups) or, with hosts, for
// a server; servers may act as clients as well.
func (a *authority) issue(name string, groups, hosts []string) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, fmt.Errorf("making the key of %s: %w", name, err)
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
		return identity{}, fmt.Errorf("making the certificate of %s: %w", name, err)
	}
	pem, err := encodeKey(key)
	return identity{cert: encode("CERTIFICATE", der), key: pem}, err
}

func certificate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choosing the serial number of %s: %w", name, err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), // clocks of containers may lag
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

// writePKI makes every certificate, key and kubeconfig of the cluster. Inside
// the node the API server is https://127.0.0.1:6443; the administrator's
// kubeconfig names the port on the host.
func writePKI(c *Cluster, r *Record) error {
	dir := c.Path("pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of certificates: %w", err)
	}
	ca, err := newAuthority("devcluster-ca")
	if err != nil {
		return err
	}
	// The aggregation layer trusts whoever this one signed, so it is another.
	front, err := newAuthority("devcluster-front-proxy-ca")
	if err != nil {
		return err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the key of the service accounts: %w", err)
	}
	accountKey, err := encodeKey(accounts)
	if err != nil {
		return err
	}
	accountPub, err := x509.MarshalPKIXPublicKey(accounts.Public())
	if err != nil {
		return fmt.Errorf("encoding the service accounts' public key: %w", err)
	}
	files := map[string][]byte{
		"ca.crt":       ca.pem,
		"front-ca.crt": front.pem,
		"sa.key":       accountKey,
		"sa.pub":       encode("PUBLIC KEY", accountPub),
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	files["ca.key"] = caKey

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
			files["kubelet.kubeconfig"] = kubeconfig(c.Context(), "https://127.0.0.1:6443", ca.pem, id)
		}
	}
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
		files[user.file+".kubeconfig"] = kubeconfig(c.Context(), "https://127.0.0.1:6443", ca.pem, id)
		if user.file == "admin" {
			files["admin.crt"], files["admin.key"] = id.cert, id.key
			outside := kubeconfig(c.Context(), r.Server(), ca.pem, id)
			if err := writeFile(c.Kubeconfig(), outside, 0o600); err != nil {
				return err
			}
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("writing certificates: %w", err)
		}
	}
	return nil
}

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
