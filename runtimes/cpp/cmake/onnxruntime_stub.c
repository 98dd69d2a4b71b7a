/* Stands in for ONNX Runtime at the link. Its own library gives each symbol the version of the
 * release, such as VERS_1.32.0, and a program linked with that starts with no other release. */
const void *OrtGetApiBase(void) { return 0; }
