"""The peer of bench_gpu and bench_gpu_edit: the same products, factorisations and attention in PyTorch (cuBLAS,
cuSOLVER), and the forward pass of a GPT-J of the same size in transformers, on padded micro-batches. Lines of
JSON with the names and cases of bench_gpu, so that both can be laid side by side.

    torch_ops.py [--device cuda:0] [--scale 1] [--seconds 0.15] [--only ops|model] [--layers 28]

A product is timed as a library is used at its best, operands and result in one type; "cast_ms" takes fp32 rows and
gives fp32 rows, as ours do, converting on the way."""
import argparse
import json
import math
import time

import torch


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device, seconds, step):
    """The best of several batches, milliseconds a call; a batch takes some 20 ms."""
    step()
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    one = max(time.perf_counter() - start, 1e-7)
    repeats = max(1, math.ceil(0.02 / one))
    best, began = math.inf, time.perf_counter()
    for batch in range(9):
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        wait(device)
        best = min(best, (time.perf_counter() - start) / repeats)
        if time.perf_counter() - began > seconds and (batch >= 2 or one > seconds):
            break
    return 1e3 * best


class Ops:
    def __init__(self, options):
        self.device = torch.device(options.device)
        self.seconds = options.seconds
        scale = options.scale
        self.scale = scale
        self.c, self.f, self.v = 4096 // scale, 16384 // scale, 50400 // scale
        self.rows, self.rank, self.seqs = 20480 // scale, 1920 // scale, 1000 // scale + 1

    def random(self, *shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device=self.device).uniform_(-1, 1)

    def report(self, name, case, ms, flops=0.0, **more):
        line = {"name": name, "case": case, "ms": ms, **more}
        if flops:
            line["tflops"] = flops / ms * 1e-9
        print(json.dumps(line), flush=True)

    def run(self, name, case, step, flops=0.0, **more):
        try:
            self.report(name, case, timed(self.device, self.seconds, step), flops, **more)
        except RuntimeError as error:  # too little memory
            print(json.dumps({"name": name, "case": case, "error": str(error)[:200]}), flush=True)

    def copy(self):
        n = (256 << 20) // self.scale
        x, y = (torch.ones(n, dtype=torch.uint8, device=self.device) for _ in range(2))
        ms = timed(self.device, self.seconds, lambda: y.copy_(x))
        self.report("memory copy", f"{n >> 20} MiB", ms, gbps=2 * n / ms * 1e-6)

    def product(self, kind, m, n, k, trans):
        """Of a (m,k), or with a 't' (k,m), and b (k,n), or (n,k)."""
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        a = self.random(*((k, m) if trans[0] == "t" else (m, k)), dtype=dtype)
        count = max(1, min(16, math.ceil((192 << 20) / self.scale / (n * k * 2))))  # not from the cache
        b = [self.random(*((n, k) if trans[1] == "t" else (k, n)), dtype=dtype) for _ in range(count)]
        c = torch.empty(m, n, dtype=dtype, device=self.device)
        a_op = a.T if trans[0] == "t" else a
        turn = [0]

        def weight():
            turn[0] = (turn[0] + 1) % count
            return b[turn[0]].T if trans[1] == "t" else b[turn[0]]

        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        more = {}
        if kind == "bf16":
            wide = a.float()
            more["cast_ms"] = timed(self.device, self.seconds / 2,
                                    lambda: torch.mm(wide.to(dtype), weight()).float())
        self.run("gemm", f"{kind} {m}x{n}x{k} {trans}", lambda: torch.mm(a_op, weight(), out=c),
                 2.0 * m * n * k, **more)

    def products(self):
        c, f, v = self.c, self.f, self.v
        rows = [self.rows, 2048 // self.scale, 512 // self.scale, 64, 8, 1]
        for i, (n, k) in enumerate([(c, c), (f, c), (c, f), (v, c)]):
            for r, m in enumerate(rows):
                if i == 3 and r == 1:
                    continue
                self.product("bf16", 332 if i == 3 and m > 512 else m, n, k, "nt")
                if r == 0 and i < 3:
                    self.product("bf16", m, k, n, "nn")
        for kind in ("fp32", "tf32"):
            for m in (1024 // self.scale, 8192 // self.scale):
                self.product(kind, m, self.rank, c + f, "nn")
                self.product(kind, m, c + f, self.rank, "nn")
            self.product(kind, f, c, 1024 // self.scale, "tn")

    def fp64(self):
        n, m, k = self.f, self.c, self.f // 2
        u, d = self.random(k, n, dtype=torch.float64), self.random(k, m, dtype=torch.float64)
        out = torch.empty(n, n, dtype=torch.float64, device=self.device)
        # a whole product: there is no rank-k update in PyTorch
        self.run("syrk64", f"{n}, {k} rows", lambda: torch.mm(u.T, u, out=out), 2.0 * n * n * k, whole=True)
        self.run("gemm64", f"fp32 {n}x{m}x{k} tn", lambda: torch.mm(u.T, d), 2.0 * n * m * k)
        del d
        torch.mm(u[:512 // self.scale].T, u[:512 // self.scale], out=out)
        out.mul_(1e-3).diagonal().add_(1)
        del u
        factor = [None]

        def factorise():
            factor[0] = None
            factor[0] = torch.linalg.cholesky(out)
        self.run("cholesky", str(n), factorise, n ** 3 / 3)
        x = self.random(n, m, dtype=torch.float64)
        self.run("trsm64", f"{n}x{m} left",
                 lambda: torch.linalg.solve_triangular(factor[0], x, upper=False), float(n) * n * m)
        few = 350 // self.scale
        q = self.random(n, few, dtype=torch.float64)
        self.run("qr64", f"{n}x{few}", lambda: torch.linalg.qr(q), 4.0 * n * few * few)

    def attention(self):
        """Padded to one length, in fp32 and in bf16, on heads as they come from the products."""
        heads, head = 16, self.c // 16
        case = f"{self.seqs} x 20 of 20, 16 heads of {head}"
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v = (self.random(self.seqs, heads, 20, head, dtype=dtype) for _ in range(3))
            name = "attn_fwd" if dtype == torch.float32 else "attn_fwd bf16"
            self.run(name, case, lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))

    def others(self):
        n, c, f, v = self.rows, self.c, self.f, self.v
        x, gain = self.random(n, c), self.random(c)
        self.run("norm_fwd", f"{n}x{c}", lambda: torch.nn.functional.layer_norm(x, (c,), gain, gain))
        wide = self.random(n, f)
        self.run("act_fwd", f"{n}x{f}", lambda: torch.nn.functional.gelu(wide, approximate="tanh"))
        del wide
        logits, label = self.random(4096 // self.scale, v), torch.zeros(4096 // self.scale, dtype=torch.int64,
                                                                        device=self.device)
        self.run("xent_fwd", f"{4096 // self.scale}x{v}",
                 lambda: torch.nn.functional.cross_entropy(logits, label, reduction="none"))


def forward(options):
    """Tokens a second of GPT-J's forward pass and its head at 4 positions of each text, without gradients."""
    from transformers import AutoModelForCausalLM, GPTJConfig
    device, scale = torch.device(options.device), options.scale
    config = GPTJConfig(vocab_size=50400 // scale, n_layer=options.layers, n_embd=4096 // scale, n_head=16,
                        rotary_dim=min(64, 4096 // scale // 16), n_positions=2048, use_cache=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device=device).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)
        for texts in (32, 102, 409):
            ids = torch.randint(0, 256, (texts, 20), device=device)
            mask = torch.ones_like(ids)

            def step():
                hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
                return model.get_output_embeddings()(hidden[:, -4:])
            ms = timed(device, options.seconds, step)
            print(json.dumps({"name": "model forward", "case": f"{texts} texts of 20 tokens, bf16", "ms": ms,
                              "tokens_per_second": texts * 20 / ms * 1e3}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--only", choices=("ops", "model"))
    options = parser.parse_args()
    print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "device": options.device}), flush=True)
    if options.only != "model":
        ops = Ops(options)
        for part in (ops.copy, ops.products, ops.fp64, ops.attention, ops.others):
            part()
            if options.device.startswith("cuda"):
                torch.cuda.empty_cache()
    if options.only != "ops":
        forward(options)


if __name__ == "__main__":
    main()
