// Program sigstore runs the code of Fulcio, Rekor, Trillian and a certificate
// transparency log in one process, for tests. Everything is in memory and listens
// on 127.0.0.1. The program prints its addresses as JSON, and runs until its
// standard input is closed.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-openapi/loads"
	ctclient "github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/google/certificate-transparency-go/trillian/ctfe"
	"github.com/google/certificate-transparency-go/trillian/ctfe/configpb"
	"github.com/google/trillian"
	"github.com/google/trillian/client"
	"github.com/google/trillian/crypto/keys"
	"github.com/google/trillian/crypto/keys/der"
	"github.com/google/trillian/crypto/keyspb"
	"github.com/google/trillian/extension"
	trillianlog "github.com/google/trillian/log"
	"github.com/google/trillian/monitoring"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/server/admin"
	"github.com/google/trillian/server/interceptor"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/util/clock"
	"github.com/google/trillian/util/election2"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/sigstore/fulcio/pkg/ca/ephemeralca"
	fulcioconfig "github.com/sigstore/fulcio/pkg/config"
	"github.com/sigstore/fulcio/pkg/generated/protobuf"
	legacy "github.com/sigstore/fulcio/pkg/generated/protobuf/legacy"
	fulcio "github.com/sigstore/fulcio/pkg/server"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/rekor/pkg/api"
	"github.com/sigstore/rekor/pkg/generated/restapi"
	"github.com/sigstore/rekor/pkg/generated/restapi/operations"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/spf13/viper"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

func main() {
	dir := flag.String("dir", "", "folder for the files of the certificate transparency log")
	config := flag.String("fulcio-config", "", "file with Fulcio's configuration")
	withCT := flag.Bool("ct", true, "log certificates")
	flag.Parse()
	if err := run(context.Background(), *dir, *config, *withCT); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

func run(ctx context.Context, dir, config string, withCT bool) error {
	backend, err := startTrillian(ctx)
	if err != nil {
		return err
	}
	rekor, err := startRekor(backend)
	if err != nil {
		return err
	}
	ca, err := ephemeralca.NewEphemeralCA()
	if err != nil {
		return err
	}
	var ct *ctclient.LogClient
	out := map[string]string{"rekor": rekor}
	if withCT {
		chain, _ := ca.GetSignerWithChain()
		roots, err := cryptoutils.MarshalCertificatesToPEM(chain)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, "roots.pem")
		if err := os.WriteFile(file, roots, 0o600); err != nil {
			return err
		}
		var key string
		if ct, key, err = startCT(ctx, backend, file); err != nil {
			return err
		}
		out["ct_key"] = key
	}
	if out["fulcio"], err = startFulcio(ctx, ca, ct, config); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func startTrillian(ctx context.Context) (string, error) {
	ts := memory.NewTreeStorage()
	reg := extension.Registry{
		AdminStorage: memory.NewAdminStorage(ts), LogStorage: memory.NewLogStorage(ts, monitoring.InertMetricFactory{}),
		QuotaManager: quota.Noop(), ElectionFactory: election2.NoopFactory{}, MetricFactory: monitoring.InertMetricFactory{},
	}
	g := grpc.NewServer(grpc.UnaryInterceptor(interceptor.ErrorWrapper))
	trillian.RegisterTrillianAdminServer(g, admin.New(reg, nil))
	trillian.RegisterTrillianLogServer(g, server.NewTrillianLogRPCServer(reg, clock.System))
	ln, err := listen()
	if err != nil {
		return "", err
	}
	go func() { _ = g.Serve(ln) }()
	om := trillianlog.NewOperationManager(trillianlog.OperationInfo{
		Registry: reg, BatchSize: 50, NumWorkers: 1, RunInterval: 50 * time.Millisecond, TimeSource: clock.System,
	}, trillianlog.NewSequencerManager(reg, 0))
	go om.OperationLoop(ctx)
	return ln.Addr().String(), nil
}

func startRekor(backend string) (string, error) {
	_, port, err := net.SplitHostPort(backend)
	if err != nil {
		return "", err
	}
	viper.Set("trillian_log_server.address", "127.0.0.1")
	viper.Set("trillian_log_server.port", port)
	viper.Set("rekor_server.signer", "memory")
	viper.Set("rekor_server.hostname", "rekor.test")
	viper.Set("enable_retrieve_api", false)
	viper.Set("enabled_api_endpoints", []string{
		"getLogInfo", "getPublicKey", "createLogEntry", "getLogEntryByIndex", "getLogEntryByUUID", "searchLogQuery", "getLogProof",
	})
	doc, err := loads.Embedded(restapi.SwaggerJSON, restapi.FlatSwaggerJSON)
	if err != nil {
		return "", err
	}
	s := restapi.NewServer(operations.NewRekorServerAPI(doc))
	api.ConfigureAPI(0)
	s.ConfigureAPI()
	ln, err := listen()
	if err != nil {
		return "", err
	}
	go func() { _ = http.Serve(ln, s.GetHandler()) }()
	return "http://" + ln.Addr().String(), nil
}

func startCT(ctx context.Context, backend, roots string) (*ctclient.LogClient, string, error) {
	cc, err := grpc.NewClient(backend, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, "", err
	}
	logs := trillian.NewTrillianLogClient(cc)
	tree, err := client.CreateAndInitTree(ctx, &trillian.CreateTreeRequest{Tree: &trillian.Tree{
		TreeState: trillian.TreeState_ACTIVE, TreeType: trillian.TreeType_LOG, DisplayName: "ct", MaxRootDuration: durationpb.New(0),
	}}, trillian.NewTrillianAdminClient(cc), logs)
	if err != nil {
		return nil, "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	private, err := der.MarshalPrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, "", err
	}
	packed, err := anypb.New(&keyspb.PrivateKey{Der: private})
	if err != nil {
		return nil, "", err
	}
	keys.RegisterHandler(&keyspb.PrivateKey{}, der.FromProto)
	valid, err := ctfe.ValidateLogConfig(&configpb.LogConfig{
		LogId: tree.TreeId, Prefix: "ct", RootsPemFile: []string{roots}, PrivateKey: packed,
		PublicKey: &keyspb.PublicKey{Der: public}, ExtKeyUsages: []string{"CodeSigning"},
	})
	if err != nil {
		return nil, "", err
	}
	inst, err := ctfe.SetUpInstance(ctx, ctfe.InstanceOptions{
		Validated: valid, Client: logs, Deadline: 10 * time.Second, MetricFactory: monitoring.InertMetricFactory{}, RequestLog: new(ctfe.DefaultRequestLog),
	})
	if err != nil {
		return nil, "", err
	}
	mux := http.NewServeMux()
	for path, h := range inst.Handlers {
		mux.Handle(path, h)
	}
	ln, err := listen()
	if err != nil {
		return nil, "", err
	}
	go func() { _ = http.Serve(ln, mux) }()
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	c, err := ctclient.New("http://"+ln.Addr().String()+"/ct", http.DefaultClient, jsonclient.Options{PublicKey: text})
	return c, text, err
}

func startFulcio(ctx context.Context, ca *ephemeralca.EphemeralCA, ct *ctclient.LogClient, config string) (string, error) {
	cfg, err := fulcioconfig.Load(config)
	if err != nil {
		return "", err
	}
	algorithms, err := signature.NewAlgorithmRegistryConfig([]protocommon.PublicKeyDetails{protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256})
	if err != nil {
		return "", err
	}
	g := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		return h(fulcioconfig.With(ctx, cfg), req)
	}))
	service := fulcio.NewGRPCCAServer(ct, ca, algorithms, fulcio.NewIssuerPool(cfg))
	protobuf.RegisterCAServer(g, service)
	legacy.RegisterCAServer(g, fulcio.NewLegacyGRPCCAServer(service))
	ln, err := listen()
	if err != nil {
		return "", err
	}
	go func() { _ = g.Serve(ln) }()
	mux := runtime.NewServeMux(
		runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
			return metadata.Pairs(fulcio.MetadataOIDCTokenKey, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		}),
		runtime.WithForwardResponseOption(func(ctx context.Context, w http.ResponseWriter, _ proto.Message) error {
			// As in "fulcio serve", the legacy API responds with 201.
			if md, ok := runtime.ServerMetadataFromContext(ctx); ok && len(md.HeaderMD.Get(fulcio.HTTPResponseCodeMetadataKey)) > 0 {
				w.WriteHeader(http.StatusCreated)
			}
			return nil
		}),
	)
	opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	err = errors.Join(protobuf.RegisterCAHandlerFromEndpoint(ctx, mux, ln.Addr().String(), opts), legacy.RegisterCAHandlerFromEndpoint(ctx, mux, ln.Addr().String(), opts))
	if err != nil {
		return "", err
	}
	front, err := listen()
	if err != nil {
		return "", err
	}
	go func() { _ = http.Serve(front, mux) }()
	return "http://" + front.Addr().String(), nil
}
