/* The default model, engine/models/lenet5.onnx, as bytes in the read-only data. */
    .section .rodata
    .balign 64
    .global model_builtin_bytes
    .global model_builtin_end
model_builtin_bytes:
    .incbin "engine/models/lenet5.onnx"
model_builtin_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
