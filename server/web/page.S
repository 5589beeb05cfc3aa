/* The web page, server/web/index.html, as bytes in the read-only data. */
    .section .rodata
    .global web_page_bytes
    .global web_page_end
web_page_bytes:
    .incbin "server/web/index.html"
web_page_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
