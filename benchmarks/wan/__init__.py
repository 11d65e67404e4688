"""Files over an emulated long link: two network namespaces, and a program between them that delays and loses."""
