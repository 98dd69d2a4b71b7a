/** Version of minit2i-deploy, which records hold. */
export const VERSION = "0.1.0";
