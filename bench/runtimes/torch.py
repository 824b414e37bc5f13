"""torch itself: nothing is exported. `bench.model.modes` compiles, `bench.model.quantised` narrows."""

CATALOGUE = {
    "torch": {
        "needs": ["torch"],
        "extra": "",
        "devices": ["cpu", "cuda", "xpu", "mps"],
        "dtypes": ["fp32", "tf32", "bf16", "fp16"],
        "quantise": ["none", "int8-dynamic", "int8-weights"],
        "quantisers": ["torchao"],
    }
}
