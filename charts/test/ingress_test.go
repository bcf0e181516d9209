package charts

import (
	"regexp"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

// publishedAnnotations are the annotations that the charts set, with the types that their
// controllers publish. No controller of this kind can be built here, so the annotations are
// compared with the lists
// (https://kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations/ and
// https://cert-manager.io/docs/usage/ingress/#supported-annotations).
var publishedAnnotations = map[string]string{
	"nginx.ingress.kubernetes.io/ssl-redirect":           `true|false`,
	"nginx.ingress.kubernetes.io/force-ssl-redirect":     `true|false`,
	"nginx.ingress.kubernetes.io/limit-rps":              `[0-9]+`,
	"nginx.ingress.kubernetes.io/limit-connections":      `[0-9]+`,
	"nginx.ingress.kubernetes.io/proxy-connect-timeout":  `[0-9]+`,
	"nginx.ingress.kubernetes.io/proxy-send-timeout":     `[0-9]+`,
	"nginx.ingress.kubernetes.io/proxy-read-timeout":     `[0-9]+`,
	"nginx.ingress.kubernetes.io/proxy-body-size":        `[0-9]+[kmg]?`,
	"nginx.ingress.kubernetes.io/enable-cors":            `true|false`,
	"nginx.ingress.kubernetes.io/cors-allow-origin":      `https?://[^, ]+(,https?://[^, ]+)*`,
	"nginx.ingress.kubernetes.io/whitelist-source-range": `[0-9a-f.:]+/[0-9]+(,[0-9a-f.:]+/[0-9]+)*`,
	"nginx.ingress.kubernetes.io/proxy-buffering":        `on|off`, // of a values file
	"cert-manager.io/cluster-issuer":                     `[a-z0-9.-]+`,
	"cert-manager.io/issuer":                             `[a-z0-9.-]+`,
}

func TestIngressAnnotationsArePublished(t *testing.T) {
	seen := map[string]bool{}
	sets := append(allSets(t), valueSet{orders, "issuer", parseValues(t, `{ingress: {enabled: true, hosts: [a.example.com], tls: {issuerKind: Issuer}}}`)})
	for _, set := range sets {
		ingress := only[networkingv1.Ingress](t, set.render(t), "Ingress")
		if ingress == nil {
			continue
		}
		for name, value := range ingress.Annotations {
			pattern, ok := publishedAnnotations[name]
			if !ok || !regexp.MustCompile(`^(`+pattern+`)$`).MatchString(value) {
				t.Errorf("%s: %s: %q does not match %q", set.name, name, value, pattern)
			}
			seen[name] = true
		}
	}
	for name := range publishedAnnotations {
		if !seen[name] {
			t.Errorf("no values file sets %s", name)
		}
	}
}
